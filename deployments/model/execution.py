"""Execution: how many inferences a replica runs at once, over all compiled shapes."""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Job: TypeAlias = tuple[float, int, Future[Any], Callable[[], Any]]


class Execution:
    """`count` worker threads; of the work that waits, the one with the earliest deadline is next.

    A thread takes its next work itself, so that it does not have to wait for the event loop.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: list[_Job] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="infer")

    @property
    def waiting(self) -> int:
        """How much work has not begun."""
        with self._lock:
            return sum(not future.cancelled() for _, _, future, _ in self._waiting)

    async def run(
        self, deadline: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs `work` in a thread; `deadline` only decides whose turn it is.

        Work that has begun is waited for even when the caller is cancelled, because it reads
        memory that the caller would give back. Raises RuntimeError after `close`.
        """
        future: Future[T] = Future()
        job: _Job = (deadline, next(self._order), future, partial(work, *args, **kwargs))
        with self._lock:
            self._threads.submit(self._run_next)
            heapq.heappush(self._waiting, job)
        del job, work, args, kwargs  # the work must not outlive its turn
        done = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not future.cancel():
                await _wait_out(done)
            raise

    def close(self) -> None:
        """Ends after the work that has begun; what has not is cancelled."""
        with self._lock:
            for _, _, future, _ in self._waiting:
                future.cancel()
        self._threads.shutdown(wait=True)

    def _run_next(self) -> None:
        with self._lock:
            _, _, future, work = heapq.heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


async def to_the_end(work: "asyncio.Future[T]") -> T:
    """The result of work in a thread; however often the caller is cancelled, it is waited for."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _wait_out(work)
        raise


async def _wait_out(work: "asyncio.Future[T]") -> None:
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # looked at here: nobody else does any more
