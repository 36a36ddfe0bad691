import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.model.execution import Execution
from tests.loops import settled, until
from tests.model.working import PATIENCE_S, Work


async def test_who_is_alone_waits_for_what_has_begun_and_holds_back_the_rest(
    execution: Execution, threads: ThreadPoolExecutor
) -> None:
    first, second = Work(), Work()
    running = asyncio.create_task(execution.run(0.0, first))
    await first.has_begun()
    came, measured = threading.Event(), threading.Event()

    def measure() -> None:
        with execution.alone():
            came.set()
            assert measured.wait(PATIENCE_S)

    alone = asyncio.get_running_loop().run_in_executor(threads, measure)
    await until(lambda: execution._alone)
    waiting = asyncio.create_task(execution.run(0.0, second))  # a thread is free for it
    await asyncio.sleep(0.05)
    assert not came.is_set()
    assert not second.began.is_set()

    first.end.set()
    assert "done" == await running
    assert await asyncio.to_thread(came.wait, PATIENCE_S)
    await asyncio.sleep(0.05)
    assert not second.began.is_set()
    assert 1 == execution.waiting

    measured.set()
    await alone
    second.end.set()
    assert "done" == await waiting


async def test_two_are_not_alone_together(execution: Execution) -> None:
    inside = most = 0

    def measure(_: int) -> None:
        nonlocal inside, most
        with execution.alone():
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            inside -= 1

    with ThreadPoolExecutor(4) as several:
        list(several.map(measure, range(40)))
    assert 1 == most
    assert 8 == await execution.run(0.0, lambda: 8)


async def test_work_goes_on_after_somebody_alone_fails(execution: Execution) -> None:
    with pytest.raises(ZeroDivisionError), execution.alone():
        _ = 1 / 0
    assert 8 == await execution.run(0.0, lambda: 8)


async def test_an_execution_closes_while_somebody_is_alone(threads: ThreadPoolExecutor) -> None:
    execution = Execution(2, 2)
    with execution.alone():
        waiting = asyncio.create_task(execution.run(0.0, lambda: 8))
        await settled()
        await asyncio.get_running_loop().run_in_executor(threads, execution.close)
        with pytest.raises(asyncio.CancelledError):
            await waiting
