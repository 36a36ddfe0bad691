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

    The ingress asks `affinity` before it batches, and names the replica in the call. A call that
    names none, or one that is gone, is routed here: by its shape if it has one, else to the less
    busy of two replicas.
    """

    def __init__(self, *arguments: Any, self_node_id: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._node_id = self_node_id
        self._doubtful: set[ReplicaID] = set()
        self.affinity = ShapeAffinity()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell_affinity()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell_affinity()

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """It could not be reached: it is asked, which tells Serve if it has died."""
        super().on_replica_actor_unavailable(replica_id)
        self._doubtful.add(replica_id)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, the preferred first; of a rank Serve takes the least busy."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        name = self._wanted(pending_request.args)
        first = [replica for replica in candidate_replicas if _name(replica.replica_id) == name]
        usable = [r for r in candidate_replicas if self.affinity.usable(_name(r.replica_id))]
        others = _two_of(usable or candidate_replicas)
        return [first, others] if first else [others]

    async def _select_from_candidate_replicas(
        self, candidates: list[RunningReplica], backoff_index: int
    ) -> RunningReplica | None:
        """The one with the shortest queue, as far as is known here.

        Serve would ask those that it has sent nothing to for a while, and wait for their answers,
        though in our queues there is room in all cases but one: a lower `max_ongoing_requests`.
        Those that could not be reached are asked.
        """
        queues = self.replica_queue_len_cache
        known = {r.replica_id: queues.get(r.replica_id) for r in candidates}
        with_room = [r for r in candidates if (known[r.replica_id] or 0) < r.max_ongoing_requests]
        doubtful = self._doubtful.intersection(known)
        if doubtful or (candidates and not with_room):
            self._doubtful -= doubtful
            asked: RunningReplica | None = await super()._select_from_candidate_replicas(
                candidates, backoff_index
            )
            return asked

        def queue(replica: RunningReplica) -> float:
            length = known[replica.replica_id]
            return math.inf if length is None else length

        chosen = min(with_room, key=queue, default=None)
        return None if chosen is None else self.curr_replicas.get(chosen.replica_id)

    def _wanted(self, arguments: Sequence[Any]) -> str | None:
        route = next((a for a in arguments if isinstance(a, Route)), None)
        if route is not None and route.replica in self.affinity:
            return route.replica
        told = next((a for a in arguments if isinstance(a, BatchCall | Referenced)), None)
        if told is None:
            return None
        call = told.call if isinstance(told, Referenced) else told
        return self.affinity.choose(shape_number(call.revision, call.key))

    def _tell_affinity(self) -> None:
        replicas = {_name(i): replica for i, replica in self.curr_replicas.items()}
        self.affinity.set_replicas(
            {name: RoutingStats.of_stats(r.routing_stats) for name, r in replicas.items()},
            near={name for name, r in replicas.items() if r.node_id == self._node_id},
        )


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)


def _two_of(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))
