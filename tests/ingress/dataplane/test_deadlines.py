"""One timer ends late results, and no others."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from deployments.ingress.dataplane.deadlines import Deadlines


class Late(Exception):
    """The error with which the deadlines end their futures."""


def pending(deadlines: Deadlines, seconds: float) -> "asyncio.Future[Any]":
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    deadlines.add(result, time.monotonic() + seconds, Late)
    return result


def _note(ended: list[int], name: int, result: "asyncio.Future[Any]") -> None:
    ended.append(name)


async def test_each_ends_at_its_own_time_whatever_came_first() -> None:
    deadlines, ended = Deadlines(), list[int]()
    results = {name: pending(deadlines, 0.02 * name) for name in (3, 1, 2)}
    for name, result in results.items():
        result.add_done_callback(partial(_note, ended, name))
    for result in results.values():
        with pytest.raises(Late):
            await result
    assert [1, 2, 3] == ended


async def test_what_has_its_answer_keeps_it_and_the_next_still_ends() -> None:
    deadlines = Deadlines()
    answered, late = pending(deadlines, 0.01), pending(deadlines, 0.03)
    answered.set_result("answer")
    with pytest.raises(Late):
        await late
    assert "answer" == answered.result()


async def test_a_removed_result_is_not_ended() -> None:
    deadlines = Deadlines()
    removed, late = pending(deadlines, 0.01), pending(deadlines, 0.03)
    deadlines.remove(removed)
    with pytest.raises(Late):
        await late
    assert not removed.done()


async def test_a_deadline_that_has_passed_ends_its_future_soon() -> None:
    with pytest.raises(Late):
        await asyncio.wait_for(pending(Deadlines(), -1.0), 1.0)


async def test_many_with_one_time_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), []
    real = loop.call_later

    def counted(*arguments: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(arguments[0])
        return real(*arguments, **more)

    monkeypatch.setattr(loop, "call_later", counted)
    deadlines = Deadlines()
    for _ in range(100):
        deadlines.remove(pending(deadlines, 10.0))
    assert 1 == len(timers)
    deadlines.close()
