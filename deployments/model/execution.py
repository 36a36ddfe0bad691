"""Execution: how many inferences a replica runs at once, over all compiled shapes."""

import asyncio
import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")


class _Job(Generic[T]):
    """Work that waits, runs, or is over. All but `work` and `begun` belongs to the event loop."""

    __slots__ = ("answer", "begun", "costly", "ended", "loop", "over", "work")

    def __init__(self, work: Callable[[], T], costly: bool) -> None:
        self.work: Callable[[], T] | None = work
        self.costly = costly
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


_Entry: TypeAlias = tuple[float, int, _Job[Any]]


class Execution:
    """`count` worker threads; of the work that waits, the one with the earliest deadline is next.

    Work that is costly, for which OpenVINO has to build anew what it keeps for known shapes, fills
    the device's `streams` and no more: other work finds a thread free. And while there is other
    work, no more of it begins than leaves a stream free, where there are two.

    `alone` holds everything back for a moment, so that what is measured has the cores to itself.

    Not an executor of the standard library: those know no deadlines, and take an answer through
    three more turns of the event loop.
    """

    def __init__(self, count: int, streams: int) -> None:
        self.count = count
        self._streams = streams
        self._waiting: dict[bool, list[_Entry]] = {False: [], True: []}  # whether it is costly
        self._running = {False: 0, True: 0}
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._alone = False  # somebody is, or waits for the work that has begun
        self._one_alone = threading.Lock()
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
            waiting = [*self._waiting[False], *self._waiting[True]]
            return sum(not job.answer.done() for _, _, job in waiting)

    async def run(self, deadline: float, work: Callable[[], T], *, costly: bool = False) -> T:
        """Runs `work` in a thread; `deadline` only decides whose turn it is.

        Work that has begun is waited for even when the caller is cancelled, because it reads
        memory that the caller would give back. Raises RuntimeError after `close`.
        """
        job = _Job(work, costly)
        del work  # it must not outlive its turn
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot run work after shutdown")
            heapq.heappush(self._waiting[costly], (deadline, next(self._order), job))
            self._changed.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with self._changed:
                begun, job.begun = job.begun, True  # so that it does not begin any more
                self._changed.notify()  # what had to wait for it may begin
            if begun:
                await job.wait_out()
            else:
                job.work = None  # nobody will run it, and it holds tensors
            raise

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no work runs: what has begun is waited for, no other begins until this is over.

        Blocks; not for the event loop, nor for work that runs here.
        """
        with self._one_alone:
            with self._changed:
                self._alone = True
                self._changed.wait_for(lambda: not any(self._running.values()))
            try:
                yield
            finally:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()

    def close(self) -> None:
        """Ends after the work that has begun; what has not is cancelled. Not for the event loop."""
        with self._changed:
            self._closed = True
            waiting = [*self._waiting[False], *self._waiting[True]]
            self._waiting = {False: [], True: []}
            self._changed.notify_all()
        for _, _, job in waiting:
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(job.answer.cancel)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        costly = None
        while (job := self._next(costly)) is not None:
            costly = job.costly
            job.run()
            del job

    def _next(self, last_costly: bool | None) -> _Job[Any] | None:
        with self._changed:
            if last_costly is not None:
                self._running[last_costly] -= 1
                if self._alone:
                    self._changed.notify_all()
            while not self._closed:
                if not self._alone and (queue := self._first()) is not None:
                    _, _, job = heapq.heappop(queue)
                    job.begun = True
                    self._running[job.costly] += 1
                    return job
                self._changed.wait()
        return None

    def _first(self) -> "list[_Entry] | None":
        """The queue whose first may begin, and has the earlier deadline."""
        for queue in self._waiting.values():
            while queue and queue[0][2].begun:
                heapq.heappop(queue)  # its caller has left
        other, costly = self._waiting[False], self._waiting[True]
        most = max(1, self._streams - bool(other or self._running[False]))
        if not costly or self._running[True] >= most:
            return other or None
        return min(queue for queue in (other, costly) if queue)


class SharedExecutions:
    """One execution for all versions of a model that run alike: they share the cores too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[tuple[int, int], Execution] = {}
        self._users: Counter[Execution] = Counter()

    def take(self, count: int, streams: int) -> Execution:
        """To be given back, once."""
        with self._lock:
            execution = self._shared.get((count, streams)) or Execution(count, streams)
            self._shared[count, streams] = execution
            self._users[execution] += 1
        return execution

    def give_back(self, execution: Execution) -> None:
        """The last one closes it, which blocks."""
        with self._lock:
            self._users[execution] -= 1
            last = not self._users[execution]
            if last:
                del self._users[execution]
                self._shared = {k: e for k, e in self._shared.items() if e is not execution}
        if last:
            execution.close()


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
