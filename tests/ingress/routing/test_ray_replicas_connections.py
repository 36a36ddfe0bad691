from typing import Any, cast

import pytest

from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.transport.batches import ANY_ROUTE, BatchCall, BatchReply, Route, Unreachable
from deployments.transport.routing_stats import RoutingStats
from tests.ingress.routing.serve_handle import (
    CALL,
    FAILED,
    FIRST,
    LOADING,
    REPLY,
    CountingServe,
    connected,
)
from tests.loops import on_both_loops, until


@on_both_loops
async def test_a_batch_takes_the_connection_of_its_replica() -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        for _ in range(5):
            assert REPLY == await replicas.infer(CALL, FIRST, by_reference=False)
        assert 0 == serve.infers
        assert [CALL] * 5 == serve.taken
        assert isinstance(serve.taken[0], BatchCall)
        assert [("attend", False)] == serve.calls


@pytest.mark.parametrize("route", [ANY_ROUTE, Route("second", near=True), Route("far", near=False)])
@on_both_loops
async def test_a_batch_for_another_or_any_replica_takes_the_handle(route: Route) -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        assert REPLY == await replicas.infer(CALL, route, by_reference=False)
        assert (1, []) == (serve.infers, serve.taken)


@on_both_loops
async def test_serve_counts_calls_over_a_connection_at_their_replica() -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        assert (1, 0) == (serve.attending, serve.counted)
        await replicas.infer(CALL, FIRST, by_reference=False)
        assert ([1], 0) == (serve.counted_in_calls, serve.counted)
        serve.over_connection = ZeroDivisionError()
        with pytest.raises(ReplicaDied):
            await replicas.infer(CALL, FIRST, by_reference=False)
        assert ([1, 1], 0) == (serve.counted_in_calls, serve.counted)


@on_both_loops
async def test_replicas_are_connected_as_they_come_and_go() -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        serve.affinity.set_replicas(
            {name: RoutingStats() for name in ("first", "second", "far")}, near={"first", "second"}
        )
        await until(lambda: 2 == serve.attending)
        assert {"first", "second"} == replicas._connections.keys()
        serve.affinity.set_replicas({"far": RoutingStats()}, near=set())
        await until(lambda: 0 == serve.attending)
        assert (0, {}) == (serve.counts.total(), replicas._connections)


@on_both_loops
async def test_replicas_that_come_after_closing_are_not_connected() -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        replicas.close()
        serve.affinity.set_replicas({"second": RoutingStats()}, near={"second"})
        assert {} == replicas._connections
        await until(lambda: 0 == serve.attending)


@on_both_loops
async def test_calls_by_reference_never_take_a_connection() -> None:
    serve = CountingServe()
    async with connected(serve) as replicas:
        assert REPLY == await replicas.infer(CALL, FIRST, by_reference=True)
        assert [] == serve.taken
        assert ("infer", True) == serve.calls[-1]


@pytest.mark.parametrize(
    "reply",
    [
        Unreachable("full", lasting=False),
        BatchReply((FAILED,)),
        BatchReply((LOADING, FAILED)),
        BatchReply((LOADING, LOADING)),
    ],
    ids=["unreachable", "failed", "partly-loading", "loading"],
)
@on_both_loops
async def test_other_replies_come_over_the_connection_too_and_leave_it(reply: Any) -> None:
    serve = CountingServe()
    serve.over_connection = reply
    async with connected(serve) as replicas:
        for _ in range(2):
            got = await replicas.infer(CALL, FIRST, by_reference=False)
            assert type(reply) is type(got)
            assert str(reply) == str(got)
        assert 2 == len(serve.taken)


@on_both_loops
async def test_a_replica_that_is_loading_is_not_usable_for_a_while() -> None:
    serve = CountingServe()
    serve.over_connection = BatchReply((LOADING, LOADING))
    async with connected(serve) as replicas:
        reply = await replicas.infer(CALL, FIRST, by_reference=False)
        assert isinstance(reply, BatchReply)
        assert [LOADING.message] * 2 == [cast("Any", member).message for member in reply.members]
        assert not replicas.usable(FIRST)


@on_both_loops
async def test_a_call_that_fails_is_a_replica_that_died() -> None:
    serve = CountingServe()
    serve.over_connection = ZeroDivisionError()
    async with connected(serve) as replicas:
        with pytest.raises(ReplicaDied, match="the call failed"):
            await replicas.infer(CALL, FIRST, by_reference=False)
        assert not replicas.usable(FIRST)


@on_both_loops
async def test_a_connection_that_is_lost_is_a_replica_that_died_and_the_next_takes_the_handle() -> (
    None
):
    serve = CountingServe()
    async with connected(serve) as replicas:
        serve.lose_connection = True
        with pytest.raises(ReplicaDied, match="its connection ended"):
            await replicas.infer(CALL, FIRST, by_reference=False)
        assert REPLY == await replicas.infer(CALL, FIRST, by_reference=False)
        assert (1, 1) == (len(serve.taken), serve.infers)
