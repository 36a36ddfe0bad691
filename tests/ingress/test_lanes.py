import asyncio
import contextvars

import pytest

from deployments.inference import ShapeKey
from deployments.ingress import lanes as module
from deployments.ingress.batching import IN_FLIGHT
from deployments.ingress.lanes import LaneLost, Lanes, MeetingPoint
from deployments.lanes import attend
from tests.ingress.lane_replicas import KEY, OTHER, Clock, Replica, Scene, scene
from tests.lane_peers import echo
from tests.loops import on_both_loops, settled, until


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """And no lanes that keys share: those are in test_lanes_shared."""
    monkeypatch.setattr(module, "_SHARED_LANES", 0)
    return Clock(monkeypatch)


async def swept(at: Scene) -> None:
    """Idle lanes have been looked at once more."""
    before = at.lanes._sweeping
    await until(lambda: at.lanes._sweeping is not before)


def many_keys(count: int) -> list[ShapeKey]:
    return [((1, 3, size, size),) for size in range(count)]


# When lanes are opened --------------------------------------------------------------------------


@on_both_loops
async def test_a_key_gets_a_lane_when_it_is_asked_for_twice_within_a_second(clock: Clock) -> None:
    async with scene() as at:
        for _ in range(5):
            assert at.lanes.idle(KEY) is None
            assert at.lanes.idle(OTHER) is None
            await settled()
            clock.passes(1.01)
        assert [] == at.replica.keys
        at.lanes.idle(KEY)
        clock.passes(0.99)
        assert at.lanes.idle(KEY) is None
        await at.opened()
        assert [KEY] == at.replica.keys
        assert 1 == len(at.lanes)
        assert at.lanes.idle(OTHER) is None


@on_both_loops
async def test_a_key_has_as_many_lanes_as_batches_under_way_and_no_more_than_may_be() -> None:
    async with scene() as at:
        first = await at.lane()
        for _ in range(5):  # one batch after the other
            assert at.lanes.idle(KEY) is first
        await settled()
        assert 1 == len(at.replica.keys)
        calls = [await at.call(first)]
        assert at.lanes.idle(KEY) is None
        await at.opened()
        second = at.lanes.idle(KEY)
        assert second is not None
        calls.append(await at.call(second))
        for _ in range(5):
            assert at.lanes.idle(KEY) is None
        await settled()
        assert IN_FLIGHT == len(at.lanes) == len(at.replica.keys)
        for call in calls:
            at.answer()
            assert "reply" == await call


@on_both_loops
async def test_a_key_waits_for_the_lane_that_is_being_opened() -> None:
    async with scene() as at:
        at.replica.open.clear()
        for _ in range(10):
            assert at.lanes.idle(KEY) is None
            await settled()
        assert 1 == at.replica.attending
        at.replica.open.set()
        await at.opened()
        assert 1 == len(at.lanes)


@pytest.mark.parametrize("connect", [True, False])
@on_both_loops
async def test_there_are_at_most_64_lanes(connect: bool) -> None:
    async with scene() as at:
        if not connect:
            at.replica.open.clear()
        for key in many_keys(70) * 2:
            at.lanes.idle(key)
        if connect:
            await at.opened()
            assert 64 == len(at.lanes)
        await at.attending(64)
        for key in many_keys(100):
            at.lanes.idle(key)
            at.lanes.idle(key)
        await settled()
        assert 64 == len(at.replica.keys)


@on_both_loops
async def test_of_many_keys_only_the_latest_are_remembered() -> None:
    async with scene() as at:
        for key in many_keys(3000):
            at.lanes.idle(key)
        at.lanes.idle(many_keys(1)[0])  # forgotten
        await settled()
        assert [] == at.replica.keys
        assert 1024 == len(at.lanes._asked)


@on_both_loops
async def test_opening_runs_in_a_context_of_its_own() -> None:
    request = contextvars.ContextVar[str]("request")
    seen: list[str | None] = []

    async def attending(name: str, token: bytes, key: ShapeKey) -> None:
        seen.append(request.get(None))
        await attend(name, token, echo)

    meeting = MeetingPoint()
    lanes = Lanes(meeting, attending)
    request.set("the first")
    for _ in range(2):
        lanes.idle(KEY)
    await until(lambda: 1 == len(lanes))
    assert lanes._sweeping is not None
    lanes.close()
    await meeting.close()
    assert [None] == seen


# How lanes end ----------------------------------------------------------------------------------


@on_both_loops
async def test_of_lanes_that_are_idle_only_the_last_is_kept_and_not_for_ever(clock: Clock) -> None:
    async with scene() as at:
        idle, busy = await at.lane(KEY), await at.lane(OTHER)
        call = await at.call(busy)
        clock.passes(1.1)
        await at.attending(1)
        assert not idle.open
        await until(lambda: 1 == len(at.lanes))
        at.answer()
        await call
        clock.passes(59.9)
        await swept(at)
        assert busy.open
        clock.passes(0.2)
        await at.attending(0)
        await until(lambda: at.lanes._sweeping is None)
        assert 0 == len(at.lanes)
        await until(lambda: not at.lanes._calls)
        await at.lane(KEY)  # and it begins anew


@on_both_loops
async def test_the_lane_that_was_used_last_is_kept_whatever_its_key(clock: Clock) -> None:
    async with scene() as at:
        first, second = await at.lane(KEY), await at.lane(OTHER)
        for lane in (second, first):
            clock.passes(0.1)
            await at.use(lane)
        clock.passes(1.1)
        await at.attending(1)
        assert first.open
        for key in (OTHER, KEY, *many_keys(3)):
            assert at.lanes.idle(key) is first


@on_both_loops
async def test_a_key_that_comes_often_again_gets_lanes_beside_the_one_that_was_kept(
    clock: Clock,
) -> None:
    async with scene() as at:
        kept = await at.lane()
        clock.passes(1.1)
        await swept(at)
        assert at.lanes.idle(KEY) is kept
        assert at.lanes.idle(KEY) is kept  # and asks for its own with that
        await at.opened()
        own = at.lanes.idle(KEY)
        assert own not in (kept, None)
        await at.use(own)
        clock.passes(1.1)
        await at.attending(1)
        assert own.open


@on_both_loops
async def test_lanes_are_as_old_as_they_get(clock: Clock) -> None:
    async with scene() as at:
        lane = await at.lane()
        for _ in range(100):
            clock.passes(0.9)
            assert at.lanes.idle(KEY) is lane
            await at.use(lane)
        await settled()
        assert 1 == len(at.replica.keys)


@on_both_loops
async def test_lanes_to_a_replica_that_serve_does_not_name_any_more_end_with_their_calls() -> None:
    async with scene() as at:
        idle, busy = await at.lane(KEY), await at.lane(OTHER)
        call = await at.call(busy)
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
        idle, busy = await at.lane(KEY), await at.lane(OTHER)
        call = await at.call(busy)
        at.lanes.drop()
        assert not idle.open
        await at.attending(1)
        at.answer()
        assert "reply" == await call
        await at.attending(0)
        assert at.lanes.idle(OTHER) is None
        await at.lane(OTHER)


@on_both_loops
async def test_closing_ends_idle_busy_and_half_opened_lanes() -> None:
    async with scene() as at:
        await at.lane(KEY)
        call = await at.call(await at.lane(OTHER))
        at.replica.open.clear()
        for key in many_keys(3) * 2:
            at.lanes.idle(key)
        await at.attending(5)
        at.lanes.close()
        with pytest.raises(LaneLost):
            await call
        at.answer()
        await at.attending(0)


@on_both_loops
async def test_a_replica_that_connects_in_the_moment_of_closing_is_let_go() -> None:
    class Meeting(MeetingPoint):
        async def expect(self, token: bytes) -> "asyncio.Future[module.Lane]":
            lane = await super().expect(token)
            lane.add_done_callback(lambda _: lanes.close())
            return lane

    meeting, replica = Meeting(), Replica()
    lanes = Lanes(meeting, replica.attend)
    for _ in range(2):
        lanes.idle(KEY)
    await until(lambda: bool(replica.keys))
    await until(lambda: not replica.attending)
    assert 0 == len(lanes)
    await meeting.close()
