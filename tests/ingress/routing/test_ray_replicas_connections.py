from typing import Any, cast

import pytest

from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.transport.batches import (
    ANY_ROUTE,
    BatchCall,
    BatchReply,
    Route,
    Unreachable,
)
from deployments.transport.routing_stats import RoutingStats
from tests.ingress.routing.connected_replicas import Clock
from tests.ingress.routing.serve_handle import (
    CALL,
    FAILED,
    LOADING,
    REPLY,
    CountingServe,
    Serve,
    with_a_lane,
)
from tests.loops import on_both_loops, until


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@on_both_loops
async def test_a_batch_takes_a_lane_where_there_is_one() -> None:
    serve = Serve()
    async with with_a_lane(serve) as replicas:
        for _ in range(5):
            assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 2 == serve.infers
        assert [CALL] * 5 == serve.taken
        assert isinstance(serve.taken[0], BatchCall)
        assert [("attend", False)] == [call for call in serve.calls if call[0] == "attend"]


@on_both_loops
async def test_serve_counts_lanes_at_their_replica_while_they_are_used() -> None:
    serve, route = CountingServe(), Route("first", near=True)
    async with with_a_lane(serve, route) as replicas:
        assert (1, 0) == (serve.attending, serve.counted)
        await replicas.infer(CALL, route, by_reference=False)
        assert ([1], 0) == (serve.counted_in_calls, serve.counted)
        serve.over_lane = ZeroDivisionError()
        with pytest.raises(ReplicaDied):
            await replicas.infer(CALL, route, by_reference=False)
        assert ([1, 1], 0) == (serve.counted_in_calls, serve.counted)


@on_both_loops
async def test_lanes_to_a_replica_that_serve_does_not_name_any_more_end() -> None:
    serve, route = CountingServe(), Route("first", near=True)
    async with with_a_lane(serve, route):
        serve.affinity.set_replicas({"second": RoutingStats()}, near={"second"})
        await until(lambda: 0 == serve.attending)
        assert 0 == serve.counted


@on_both_loops
async def test_calls_by_reference_never_take_a_lane() -> None:
    serve = Serve()
    async with with_a_lane(serve) as replicas:
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=True)
        assert [] == serve.taken
        assert ("infer", True) == serve.calls[-1]


@pytest.mark.parametrize(
    "reply",
    [Unreachable("full", lasting=False), BatchReply((FAILED,)), BatchReply((LOADING, FAILED))],
    ids=["unreachable", "failed", "partly-loading"],
)
@on_both_loops
async def test_other_replies_come_over_the_lane_too_and_leave_it(reply: Any) -> None:
    serve = Serve()
    serve.over_lane = reply
    async with with_a_lane(serve) as replicas:
        for _ in range(2):
            got = await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
            assert type(reply) is type(got)
            assert str(reply) == str(got)
        assert 2 == len(serve.taken)


@on_both_loops
async def test_after_a_replica_that_is_loading_serve_chooses_who_gets_the_next_try() -> None:
    serve = Serve()
    serve.over_lane = BatchReply((LOADING, LOADING))
    async with with_a_lane(serve) as replicas:
        reply = await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert isinstance(reply, BatchReply)
        assert [LOADING.message] * 2 == [cast("Any", member).message for member in reply.members]
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 1 == len(serve.taken)
        assert 3 == serve.infers


@on_both_loops
async def test_a_lane_that_is_lost_is_a_replica_that_died_and_the_next_try_takes_the_handle() -> (
    None
):
    serve = Serve()
    serve.over_lane = ZeroDivisionError()
    async with with_a_lane(serve) as replicas:
        with pytest.raises(ReplicaDied, match="its connection ended"):
            await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 1 == len(serve.taken)
