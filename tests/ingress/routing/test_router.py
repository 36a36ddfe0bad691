"""Serve's base class of routers with ours on top, and replicas that are asked for nothing."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from deployments.inference import shape_number
from deployments.ingress.routing.router import ShapeRouter
from deployments.transport.batches import BatchCall, Referenced, Route
from deployments.transport.routing_stats import RoutingStats

DEPLOYMENT = DeploymentID("model", "app")
KEY = ((-1, 3, 8, 8),)
CALL = BatchCall("1-x", KEY, (), None)


@dataclass
class Replica:
    name: str
    max_ongoing_requests: int = 100
    queue: int = 0
    node_id: str = "node"
    routing_stats: dict[str, Any] = field(default_factory=dict)
    availability_zone: None = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    asked: int = 0

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, DEPLOYMENT)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        return self.queue


async def router(*replicas: Replica) -> Any:
    """After Serve has asked all replicas once, as it does of itself when they are new."""
    routing: Any = ShapeRouter(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="node",
        use_replica_queue_len_cache=True,
    )
    routing.update_replicas(list(replicas))
    await asyncio.sleep(0.01)
    for replica in replicas:
        replica.asked = 0
    return routing


async def chosen(routing: Any, *arguments: Any) -> str:
    replicas = list(routing.curr_replicas.values())
    request = PendingRequest(list(arguments), {}, RequestMetadata("", ""))
    first, *_ = await routing.choose_replicas(replicas, request)
    replica = await routing._select_from_candidate_replicas(first, 0)
    return str(replica.name)


@pytest.mark.parametrize("name", ["a", "b", "c"])
async def test_a_call_goes_to_the_replica_that_it_names(name: str) -> None:
    replicas = [Replica("a"), Replica("b"), Replica("c")]
    routing = await router(*replicas)
    assert {name} == {await chosen(routing, CALL, Route(name, near=True)) for _ in range(9)}
    assert [0, 0, 0] == [replica.asked for replica in replicas]


@pytest.mark.parametrize("call", [CALL, Referenced(CALL, None)])  # type: ignore[arg-type]
async def test_a_call_that_names_none_goes_by_its_shape(call: Any) -> None:
    facts = RoutingStats(frozenset({shape_number("1-x", KEY)}), 4, 64.0)
    routing = await router(Replica("a"), Replica("b", routing_stats=facts.as_stats()), Replica("c"))
    assert {"b"} == {await chosen(routing, call) for _ in range(9)}
    assert {"b"} == {await chosen(routing, call, Route("gone", near=True)) for _ in range(9)}


async def test_what_has_no_shape_goes_to_the_less_busy_of_two() -> None:
    routing = await router(Replica("a"), Replica("b"))
    routing.on_new_queue_len_info(ReplicaID("a", DEPLOYMENT), 7)
    assert {"b"} == {await chosen(routing) for _ in range(9)}


async def test_replicas_are_asked_only_if_all_were_full() -> None:
    full, other = Replica("a", 2, queue=1), Replica("b", 2, queue=2)
    routing = await router(full, other)
    for replica in (full, other):
        routing.on_new_queue_len_info(replica.replica_id, 2)
    assert "a" == await chosen(routing)
    assert 1 == full.asked


async def test_one_that_could_not_be_reached_is_asked_once() -> None:
    """Serve learns from that whether it has died, and chooses another if so."""
    away, there = Replica("a"), Replica("b")
    routing = await router(away, there)
    routing.on_replica_actor_unavailable(away.replica_id)
    route = Route("a", near=True)
    assert ["a", "a"] == [await chosen(routing, CALL, route) for _ in range(2)]
    assert 1 == away.asked


async def test_what_has_no_shape_goes_to_none_that_was_lost_or_is_loading() -> None:
    ready = RoutingStats(ready=True).as_stats()
    replicas = [Replica("a", routing_stats=ready), Replica("b", routing_stats=ready), Replica("c")]
    routing = await router(*replicas)
    routing.affinity.lost("a", 60.0)
    assert {"b"} == {await chosen(routing) for _ in range(20)}


async def test_one_whose_queue_is_not_known_comes_last() -> None:
    """It may have stopped to answer: what was known of its queue is forgotten by and by."""
    routing = await router(Replica("a"), Replica("b"))
    routing.on_new_queue_len_info(ReplicaID("a", DEPLOYMENT), 7)
    routing.replica_queue_len_cache.invalidate_key(ReplicaID("b", DEPLOYMENT))
    assert {"a"} == {await chosen(routing) for _ in range(9)}


async def test_a_replica_that_is_gone_is_not_chosen() -> None:
    gone, there = Replica("a"), Replica("b")
    routing = await router(there)
    assert await routing._select_from_candidate_replicas([gone], 0) is None
    assert await routing._select_from_candidate_replicas([], 0) is None
