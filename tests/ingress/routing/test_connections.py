import asyncio
import contextvars

import pytest

from deployments.ingress.routing import connections as module
from deployments.ingress.routing.connections import (
    ConnectionListener,
    ConnectionLost,
    ConnectionPool,
)
from deployments.transport.connections import serve_connection
from tests.ingress.routing.connected_replicas import Clock, Replica, Scene, scene
from tests.loops import on_both_loops, settled, until
from tests.transport.connection_peers import echo


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def swept(at: Scene) -> None:
    """Idle lanes have been looked at once more."""
    before = at.lanes._sweeping
    await until(lambda: at.lanes._sweeping is not before)


# When lanes are opened --------------------------------------------------------------------------


@on_both_loops
async def test_there_is_a_lane_when_one_is_asked_for_twice_within_a_minute(clock: Clock) -> None:
    async with scene() as at:
        for _ in range(5):
            assert at.lanes.idle() is None
            await settled()
            clock.passes(60.01)
        assert [] == at.replica.tokens
        at.lanes.idle()
        clock.passes(59.9)
        assert at.lanes.idle() is None
        await at.opened()
        assert 1 == len(at.replica.tokens) == len(at.lanes)


@on_both_loops
async def test_there_are_as_many_lanes_as_calls_under_way() -> None:
    async with scene() as at:
        first = await at.lane()
        for _ in range(5):  # one call after the other
            assert first is at.lanes.idle()
        await settled()
        assert 1 == len(at.replica.tokens)
        busy = await at.lanes_and_calls(5)
        assert 5 == len({id(lane) for lane, _ in busy}) == len(at.lanes)
        for _, call in busy:
            at.answer()
            assert "reply" == await call
        await at.lane()
        assert 5 == len(at.replica.tokens)


@on_both_loops
async def test_calls_wait_for_the_lane_that_is_being_opened() -> None:
    async with scene() as at:
        at.replica.open.clear()
        for _ in range(10):
            assert at.lanes.idle() is None
            await settled()
        assert 1 == at.replica.attending
        at.replica.open.set()
        await at.opened()
        assert 1 == len(at.lanes)


@on_both_loops
async def test_there_are_no_more_lanes_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LANES", 3)
    async with scene() as at:
        busy = await at.lanes_and_calls(3)
        for _ in range(5):
            assert at.lanes.idle() is None
            await settled()
        assert 3 == len(at.replica.tokens)
        for _, call in busy:
            at.answer()
            await call


@on_both_loops
async def test_of_idle_lanes_the_one_that_was_used_last_is_taken(clock: Clock) -> None:
    async with scene() as at:
        lanes = await at.used(3)
        for lane in (lanes[2], lanes[0], lanes[1]):
            clock.passes(0.1)
            await at.use(lane)
            assert lane is at.lanes.idle()


@on_both_loops
async def test_opening_runs_in_a_context_of_its_own() -> None:
    request = contextvars.ContextVar[str]("request")
    seen: list[str | None] = []

    async def attending(name: str, token: bytes) -> None:
        seen.append(request.get(None))
        await serve_connection(name, token, echo)

    meeting = ConnectionListener()
    lanes = ConnectionPool(meeting, attending)
    request.set("the first")
    for _ in range(2):
        lanes.idle()
    await until(lambda: 1 == len(lanes))
    assert lanes._sweeping is not None
    lanes.close()
    await meeting.close()
    assert [None] == seen


# How lanes end ----------------------------------------------------------------------------------


@on_both_loops
async def test_of_lanes_that_are_idle_only_the_last_is_kept_and_not_for_ever(clock: Clock) -> None:
    async with scene() as at:
        (idle, call), (busy, other) = await at.lanes_and_calls(2)
        at.answer()
        await call
        clock.passes(1.1)
        await at.attending(1)
        assert not idle.open
        at.answer()
        await other
        clock.passes(59.9)
        await swept(at)
        assert busy.open
        clock.passes(0.2)
        await at.attending(0)
        await until(lambda: at.lanes._sweeping is None)
        assert 0 == len(at.lanes)
        await until(lambda: not at.lanes._calls)
        await at.lane()  # and it begins anew


@on_both_loops
async def test_the_lane_that_was_used_last_is_kept(clock: Clock) -> None:
    async with scene() as at:
        first, second = await at.used(2)
        for lane in (second, first):
            clock.passes(0.1)
            await at.use(lane)
        clock.passes(1.1)
        await at.attending(1)
        assert first.open
        assert first is at.lanes.idle()


@on_both_loops
async def test_who_asks_now_and_then_has_a_lane(clock: Clock) -> None:
    async with scene() as at:
        lane = await at.lane()
        for _ in range(5):
            clock.passes(50)
            assert lane is at.lanes.idle()
            await at.use(lane)
        assert 1 == len(at.replica.tokens)


@on_both_loops
async def test_lanes_are_as_old_as_they_get(clock: Clock) -> None:
    async with scene() as at:
        lane = await at.lane()
        for _ in range(100):
            clock.passes(0.9)
            assert lane is at.lanes.idle()
            await at.use(lane)
        await settled()
        assert 1 == len(at.replica.tokens)


@on_both_loops
async def test_lanes_to_a_replica_that_serve_does_not_name_any_more_end_with_their_calls() -> None:
    async with scene() as at:
        (idle, first), (_, call) = await at.lanes_and_calls(2)
        at.answer()
        await first
        at.named = False
        await at.attending(1)
        assert not idle.open
        await swept(at)
        at.answer()
        assert "reply" == await call
        await at.attending(0)


@on_both_loops
async def test_dropped_lanes_end_with_their_calls() -> None:
    async with scene() as at:
        (idle, first), (_, call) = await at.lanes_and_calls(2)
        at.answer()
        await first
        at.lanes.drop()
        assert not idle.open
        await at.attending(1)
        at.answer()
        assert "reply" == await call
        await at.attending(0)
        assert at.lanes.idle() is None
        await at.lane()


@on_both_loops
async def test_closing_ends_idle_busy_and_half_opened_lanes() -> None:
    async with scene() as at:
        (idle, first), (_, call) = await at.lanes_and_calls(2)
        another = await at.call(await at.lane())
        at.replica.open.clear()
        assert at.lanes.idle() is None
        await at.attending(4)
        at.answer()
        await first
        at.lanes.close()
        assert not idle.open
        for busy in (call, another):
            with pytest.raises(ConnectionLost):
                await busy
        for _ in range(2):
            at.answer()
        await at.attending(0)


@on_both_loops
async def test_a_replica_that_connects_in_the_moment_of_closing_is_let_go() -> None:
    class Meeting(ConnectionListener):
        async def expect(self, token: bytes) -> "asyncio.Future[module.Connection]":
            lane = await super().expect(token)
            lane.add_done_callback(lambda _: lanes.close())
            return lane

    meeting, replica = Meeting(), Replica()
    lanes = ConnectionPool(meeting, replica.attend)
    for _ in range(2):
        lanes.idle()
    await until(lambda: bool(replica.tokens))
    await until(lambda: not replica.attending)
    assert 0 == len(lanes)
    await meeting.close()
