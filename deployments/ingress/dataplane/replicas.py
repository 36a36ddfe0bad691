"""The interface through which the ingress calls a model's replicas."""

from typing import Any, Protocol

from deployments.inference import ModelStatus, ShapeKey
from deployments.observability.shape_records import ShapesReport
from deployments.transport.batches import ANY_ROUTE, BatchCall, BatchReply, Route, Unreachable


class ReplicaDied(Exception):
    """Raised when a replica died during a call, or Ray could not complete the call."""


class ModelReplicas(Protocol):
    """The replicas of a model's deployment."""

    async def status(self) -> ModelStatus:
        """The status from one replica. Raises TimeoutError if none answers soon, ReplicaDied."""
        ...

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        """The counters of every replica. Raises as `status` does."""
        ...

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        """Every replica's report on the shapes of a version; None from replicas without it."""
        ...

    async def look(self, timeout_s: float) -> bool:
        """Makes every replica look for versions now; returns whether any changed."""
        ...

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        """Makes every replica unload all versions, or load them again."""
        ...

    def route(self, revision: str, key: ShapeKey, avoid: Route = ANY_ROUTE) -> Route:
        """Chooses the replica for a request of this shape, other than `avoid`, which failed."""
        ...

    def usable(self, route: Route) -> bool:
        """Whether the route's replica is up, and was not lost since the route was chosen."""
        ...

    def sent(self, route: Route, revision: str, key: ShapeKey) -> None:
        """Counts a request that waits for this replica, until `answered`."""
        ...

    def answered(self, route: Route) -> None: ...

    async def infer(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        """Sends a batch; if the route's replica is gone, to another one. Raises ReplicaDied."""
        ...
