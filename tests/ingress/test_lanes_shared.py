"""Lanes that the keys share which are not asked for often."""

import asyncio

import pytest

from deployments.inference import ShapeKey
from deployments.ingress import lanes as module
from tests.ingress.lane_replicas import KEY, Clock, Scene, scene
from tests.loops import on_both_loops, settled, until


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def new_key(number: int) -> ShapeKey:
    return ((1, 3, number, number),)


async def shared(at: Scene, first: int = 0) -> None:
    """Makes a lane for keys that come once."""
    assert at.lanes.idle(new_key(first)) is None
    assert at.lanes.idle(new_key(first + 1)) is None
    await at.opened()


@on_both_loops
async def test_keys_that_come_once_share_a_lane() -> None:
    async with scene() as at:
        await shared(at)
        lanes = {at.lanes.idle(new_key(number)) for number in range(2, 10)}
        assert 1 == len(lanes)
        assert None not in lanes
        assert [new_key(1)] == at.replica.keys  # opened for the key that was in need


@on_both_loops
async def test_keys_that_come_seldom_have_none(clock: Clock) -> None:
    async with scene() as at:
        for number in range(5):
            assert at.lanes.idle(new_key(number)) is None
            await settled()
            clock.passes(60.1)
        assert [] == at.replica.keys


@on_both_loops
async def test_there_are_as_many_as_calls_under_way_up_to_their_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SHARED_LANES", 3)
    async with scene() as at:
        await shared(at)
        calls: list[asyncio.Task[object]] = []
        for number in range(2, 12):
            lane = at.lanes.idle(new_key(number))
            if lane is not None:
                calls.append(await at.call(lane))
            await at.opened()
        assert 3 == len(calls) == len(at.lanes)
        for _ in calls:
            at.answer()
        await asyncio.gather(*calls)


@on_both_loops
async def test_a_key_that_comes_often_gets_its_own_and_uses_the_shared_ones_until_then() -> None:
    async with scene() as at:
        await shared(at)
        first = at.lanes.idle(KEY)
        assert first is not None
        assert first is at.lanes.idle(KEY)  # and asks for its own with that
        await at.opened()
        own = at.lanes.idle(KEY)
        assert own is not None
        assert own is not first
        assert [new_key(1), KEY] == at.replica.keys


@on_both_loops
async def test_keys_that_come_now_and_then_share_a_lane(clock: Clock) -> None:
    async with scene() as at:
        await shared(at)
        for number in range(2, 6):
            clock.passes(50)
            lane = at.lanes.idle(new_key(number))
            assert lane is not None
            await at.use(lane)
        assert [new_key(1)] == at.replica.keys


@on_both_loops
async def test_a_shared_lane_that_is_idle_is_closed(clock: Clock) -> None:
    async with scene() as at:
        await shared(at)
        clock.passes(60.1)
        await at.attending(0)
        await until(lambda: 0 == len(at.lanes))
