"""Execution: how many inferences a replica runs at once, over all compiled shapes."""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Job(Generic[T]):
    """Work that waits, runs, or is over. All but `work` and `begun` belongs to the event loop."""

    __slots__ = ("answer", "begun", "ended", "loop", "over", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work: Callable[[], T] | None = work
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self.loop.create_future()
        self.ended: asyncio.Future[None] | None = None
        self.begun = False
        self.over = False

    def run(self) -> None:
        """In a worker thread. Nothing here keeps the work or its result afterwards."""
        work, self.work = self.work, None
        assert work is not None
        try:
            settled = partial(self._settle, work(), None)
        except BaseException as error:
            settled = partial(self._settle, None, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(settled)
        del settled, work  # an error's traceback holds this frame

    async def wait_out(self) -> None:
        """Ends with the work, however often the caller is cancelled."""
        self.ended = self.loop.create_future()
        while not self.over:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self.ended])

    def _settle(self, result: Any, error: BaseException | None) -> None:
        self.over = True
        if not self.answer.done():
            if error is None:
                self.answer.set_result(result)
            else:
                self.answer.set_exception(error)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class Execution:
    """`count` worker threads; of the work that waits, the one with the earliest deadline is next.

    Not an executor of the standard library: those know no deadlines, and take an answer through
    three more turns of the event loop.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: list[tuple[float, int, _Job[Any]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How much work has not begun."""
        with self._changed:
            return sum(not job.answer.done() for _, _, job in self._waiting)

    async def run(
        self, deadline: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs `work` in a thread; `deadline` only decides whose turn it is.

        Work that has begun is waited for even when the caller is cancelled, because it reads
        memory that the caller would give back. Raises RuntimeError after `close`.
        """
        job = _Job(partial(work, *args, **kwargs))
        del work, args, kwargs  # they must not outlive their turn
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot run work after shutdown")
            heapq.heappush(self._waiting, (deadline, next(self._order), job))
            self._changed.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with self._changed:
                begun, job.begun = job.begun, True  # so that it does not begin any more
            if begun:
                await job.wait_out()
            raise

    def close(self) -> None:
        """Ends after the work that has begun; what has not is cancelled. Not for the event loop."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for _, _, job in waiting:
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(job.answer.cancel)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            del job

    def _next(self) -> _Job[Any] | None:
        with self._changed:
            while not self._closed:
                while self._waiting:
                    _, _, job = heapq.heappop(self._waiting)
                    if not job.begun:
                        job.begun = True
                        return job
                self._changed.wait()
        return None


async def to_the_end(work: "asyncio.Future[T]") -> T:
    """The result of work in a thread; however often the caller is cancelled, it is waited for."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # looked at here: nobody else does any more
        raise
