"""The request router of the models' deployments, which Serve runs in every ingress replica."""

import math
import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter

from deployments.inference import shape_number
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ray_private import ReplicaID, RunningReplica
from deployments.transport.batches import BatchCall, Referenced, Route
from deployments.transport.routing_stats import RoutingStats


class ShapeRouter(RequestRouter):
    """Sends a batch to the replica that has its shape, see `ShapeAffinity`.

    The ingress asks `affinity` before it batches, and names the replica in the call. If a call
    names no replica, or one that is gone, this router chooses by the shape. A call without a shape
    goes to the less busy of two replicas.
    """

    def __init__(self, *arguments: Any, self_node_id: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._node_id = self_node_id
        self._unreached: set[ReplicaID] = set()
        self.affinity = ShapeAffinity()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._update_affinity()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._update_affinity()

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """Asks the replica for its queue at the next call, so that Serve notices if it has died."""
        super().on_replica_actor_unavailable(replica_id)
        self._unreached.add(replica_id)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Replicas in ranks, the preferred first; within a rank Serve takes the least busy."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        name = self._preferred(pending_request.args)
        first = [replica for replica in candidate_replicas if _name(replica.replica_id) == name]
        usable = [r for r in candidate_replicas if self.affinity.usable(_name(r.replica_id))]
        others = _two_random(usable or candidate_replicas)
        return [first, others] if first else [others]

    async def _select_from_candidate_replicas(
        self, candidates: list[RunningReplica], backoff_index: int
    ) -> RunningReplica | None:
        """The replica with the shortest queue, by the queue lengths known here.

        Serve would ask replicas that it has not sent calls to for a while, and wait for their
        answers. That is needless: our queues have room, unless `max_ongoing_requests` is lower.
        Replicas that could not be reached are asked.
        """
        queues = self.replica_queue_len_cache
        known = {r.replica_id: queues.get(r.replica_id) for r in candidates}
        with_room = [r for r in candidates if (known[r.replica_id] or 0) < r.max_ongoing_requests]
        unreached = self._unreached.intersection(known)
        if unreached or (candidates and not with_room):
            self._unreached -= unreached
            probed: RunningReplica | None = await super()._select_from_candidate_replicas(
                candidates, backoff_index
            )
            return probed

        def queue(replica: RunningReplica) -> float:
            length = known[replica.replica_id]
            return math.inf if length is None else length

        chosen = min(with_room, key=queue, default=None)
        return None if chosen is None else self.curr_replicas.get(chosen.replica_id)

    def _preferred(self, arguments: Sequence[Any]) -> str | None:
        route = next((a for a in arguments if isinstance(a, Route)), None)
        if route is not None and route.replica in self.affinity:
            return route.replica
        message = next((a for a in arguments if isinstance(a, BatchCall | Referenced)), None)
        if message is None:
            return None
        call = message.call if isinstance(message, Referenced) else message
        return self.affinity.choose(shape_number(call.revision, call.key))

    def _update_affinity(self) -> None:
        replicas = {_name(i): replica for i, replica in self.curr_replicas.items()}
        self.affinity.set_replicas(
            {name: RoutingStats.of_stats(r.routing_stats) for name, r in replicas.items()},
            near={name for name, r in replicas.items() if r.node_id == self._node_id},
        )


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)


def _two_random(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))
