"""Ray Serve's own routers for this project's model deployment, to compare ours with them.

They route every batch separately, without connections from the ingress to the replicas.
"""

from collections.abc import Sequence
from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RequestRouter

from deployments.inference import shape_number
from deployments.transport.batches import BatchCall


class _WithoutConnections(RequestRouter):
    """Makes replicas fail to connect, so that the ingress sends batches through the handle."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: Any = None
    ) -> list[list[RunningReplica]]:
        if pending_request is not None and pending_request.metadata.call_method == "attend":
            pending_request.args[0] = "unreachable"
        router: Any = super()  # Serve's router, by the order of the base classes
        chosen: list[list[RunningReplica]] = await router.choose_replicas(
            candidate_replicas, pending_request
        )
        return chosen


class PowerOfTwo(_WithoutConnections, PowerOfTwoChoicesRequestRouter):
    """Serve's default."""


class ByHash(_WithoutConnections, ConsistentHashRouter):
    """Serve's router for sessions, with the shape as the session."""

    def _routing_key(self, pending_request: PendingRequest | None) -> str | None:
        key: str | None = super()._routing_key(pending_request)
        arguments: Sequence[Any] = () if pending_request is None else pending_request.args
        call = next((a for a in arguments if isinstance(a, BatchCall)), None)
        return key if call is None else str(shape_number(call.revision, call.key))
