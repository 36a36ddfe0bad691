import asyncio

import pytest

from deployments import timing
from deployments.ingress.routing.liveness import LivenessWatch, ReplicaUnresponsive, unless_silent
from tests.loops import on_both_loops


class Worker:
    """Answers when `answer` is set, with its last sign; `signs` are what it gives when asked."""

    def __init__(self, *signs: bool) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.left = False
        self._signs = list(signs)

    async def work(self) -> str:
        try:
            return await self.answer
        except asyncio.CancelledError:
            self.left = True
            raise

    async def alive(self) -> bool:
        sign = self._signs.pop(0)
        if not self._signs and not self.answer.done():
            self.answer.set_result("done")
            await asyncio.sleep(0)
        return sign


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LIVENESS_S", 0.01)


@on_both_loops
async def test_what_is_answered_soon_is_not_asked_for_a_sign() -> None:
    worker = Worker()
    worker.answer.set_result("at once")
    assert "at once" == await unless_silent(worker.work(), worker.alive)


@on_both_loops
async def test_work_may_take_long_while_there_are_signs_of_life() -> None:
    worker = Worker(True, True, True)
    assert "done" == await unless_silent(worker.work(), worker.alive)


@on_both_loops
async def test_without_a_sign_the_work_is_given_up() -> None:
    worker = Worker(True, False, True)
    with pytest.raises(ReplicaUnresponsive):
        await unless_silent(worker.work(), worker.alive)
    await asyncio.sleep(0)
    assert worker.left


@on_both_loops
async def test_an_answer_that_comes_instead_of_the_sign_counts() -> None:
    worker = Worker(True, False)
    assert "done" == await unless_silent(worker.work(), worker.alive)


@on_both_loops
async def test_what_the_work_raises_is_raised() -> None:
    worker = Worker(True)
    worker.answer.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await unless_silent(worker.work(), worker.alive)


@on_both_loops
async def test_a_caller_that_leaves_takes_the_work_along() -> None:
    worker = Worker(*[True] * 100)
    caller = asyncio.ensure_future(unless_silent(worker.work(), worker.alive))
    await asyncio.sleep(0.03)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0)
    assert worker.left


# Without a task ---------------------------------------------------------------------------------


async def watched(worker: Worker) -> str:
    """Waits for the worker, whose connection ends when it is given up."""

    def give_up() -> None:
        if not worker.answer.done():
            worker.answer.set_exception(ConnectionError())

    with LivenessWatch(worker.alive, give_up):
        return await worker.answer


@on_both_loops
async def test_watched_work_may_take_long_while_there_are_signs_of_life() -> None:
    assert "done" == await watched(Worker(True, True, True))


@on_both_loops
async def test_watched_work_without_a_sign_is_given_up() -> None:
    with pytest.raises(ReplicaUnresponsive):
        await watched(Worker(True, False, True))


@on_both_loops
async def test_a_connection_that_ends_by_itself_is_no_silence() -> None:
    worker = Worker(True)
    worker.answer.set_exception(ConnectionError())
    with pytest.raises(ConnectionError):
        await watched(worker)


@on_both_loops
async def test_an_answer_that_comes_instead_of_the_sign_counts_for_watched_work_too() -> None:
    worker = Worker()

    async def answering_instead() -> bool:
        worker.answer.set_result("done")  # nobody has a turn before this is known
        return False

    worker.alive = answering_instead  # type: ignore[method-assign]
    assert "done" == await watched(worker)


@on_both_loops
async def test_watched_work_is_given_up_where_nobody_can_be_asked() -> None:
    worker = Worker()  # asking it raises IndexError
    with pytest.raises(ReplicaUnresponsive):
        await watched(worker)


@on_both_loops
async def test_a_caller_of_watched_work_that_leaves_ends_the_watch() -> None:
    worker = Worker(*[True] * 100)
    caller = asyncio.ensure_future(watched(worker))
    await asyncio.sleep(0.03)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    left = len(worker._signs)
    await asyncio.sleep(0.03)
    assert left == len(worker._signs) < 100


@on_both_loops
async def test_a_sign_that_is_being_waited_for_ends_with_the_work() -> None:
    worker, asked, over = Worker(), asyncio.Event(), asyncio.Event()

    async def never() -> bool:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()
        return True

    async def answered() -> str:
        with LivenessWatch(never, lambda: None):
            return await worker.answer

    task = asyncio.ensure_future(answered())
    await asked.wait()
    worker.answer.set_result("done")
    assert "done" == await task
    await over.wait()
