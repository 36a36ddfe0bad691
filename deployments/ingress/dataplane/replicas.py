"""What the ingress asks of a model's replicas, however they are reached."""

from typing import Any, Protocol

from deployments.inference import ModelStatus, ShapeKey
from deployments.observability.shape_records import ShapesReport
from deployments.transport.batches import ANY_ROUTE, BatchCall, BatchReply, Route, Unreachable


class ReplicaDied(Exception):
    """Raised when a replica died over a call, or Ray could not bring the call to its end."""


class ModelReplicas(Protocol):
    """The model's deployment."""

    async def status(self) -> ModelStatus:
        """One replica's. Raises TimeoutError when none answers soon, ReplicaDied."""
        ...

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        """The counters of every replica. Raises as `status` does."""
        ...

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        """What every replica knows of the shapes of a version; None from those without it."""
        ...

    async def look(self, timeout_s: float) -> bool:
        """Has every replica look for versions now; whether that changed any."""
        ...

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        """Has every replica let go of all versions, or load them again."""
        ...

    def route(self, revision: str, key: ShapeKey, avoid: Route = ANY_ROUTE) -> Route:
        """The replica for a request of this shape; another than `avoid`, which failed."""
        ...

    def usable(self, route: Route) -> bool:
        """Whether its replica is there, and was not lost since the route was chosen."""
        ...

    def sent(self, route: Route, revision: str, key: ShapeKey) -> None:
        """A request waits for this replica, until it is `answered`."""
        ...

    def answered(self, route: Route) -> None: ...

    async def infer(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        """Raises ReplicaDied. If the replica of the route is gone, another gets the call."""
        ...
