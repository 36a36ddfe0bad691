"""Worker threads that bound how many inferences a replica runs at once, over all shapes."""

import asyncio
import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from deployments import timing

T = TypeVar("T")


class Kind(Enum):
    """The kinds of inferences, which decide what may run at the same time."""

    USUAL = auto()
    BUILDS = auto()
    """OpenVINO builds kernels for it. No more of this kind run than the device has streams, so
    that other work finds a free thread. While there is other work, and more than one stream, it
    leaves a stream free until it has waited for a quarter of a second."""
    COMPARES = auto()
    """It compares two compilations, each of which can use all of the device's streams. In total no
    more runs at once than the streams take, and only one of this kind."""


class _Job(Generic[T]):
    """Work that waits, runs or is over. Only `work` and `begun` are used in other threads."""

    __slots__ = ("answer", "begun", "came", "ended", "kind", "loop", "over", "work")

    def __init__(self, work: Callable[[], T], kind: Kind) -> None:
        self.work: Callable[[], T] | None = work
        self.kind = kind
        self.came = time.monotonic()
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self.loop.create_future()
        self.ended: asyncio.Future[None] | None = None
        self.begun = False
        self.over = False

    def run(self) -> None:
        """Runs the work, in a worker thread. Keeps no reference to it or to its result."""
        work, self.work = self.work, None
        assert work is not None
        try:
            settled = partial(self._settle, work(), None)
        except BaseException as error:
            settled = partial(self._settle, None, error)
        with suppress(RuntimeError):  # the loop is closed, so no caller waits
            self.loop.call_soon_threadsafe(settled)
        del settled, work  # an error's traceback holds this frame

    async def wait_out(self) -> None:
        """Waits for the end of the work, also if the caller is cancelled again."""
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
    """Runs work in `count` threads, the earliest deadline first.

    `Kind` restricts which work may run at the same time.

    It replaces the standard library's executors, which know no deadlines, and which pass an answer
    through three more turns of the event loop.
    """

    def __init__(self, count: int, streams: int) -> None:
        self.count = count
        self._streams = streams
        self._waiting: dict[Kind, list[_Entry]] = {kind: [] for kind in Kind}
        self._running = dict.fromkeys(Kind, 0)
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
        """The number of jobs that have not begun."""
        with self._changed:
            return sum(not job.answer.done() for _, _, job in self._all_waiting())

    async def run(self, deadline: float, work: Callable[[], T], kind: Kind = Kind.USUAL) -> T:
        """Runs `work` in a thread; `deadline` only decides the order.

        A cancelled caller waits until work that has begun ends, because the work reads memory that
        the caller would release. Raises RuntimeError after `close`.
        """
        job = _Job(work, kind)
        del work  # this frame must not keep it alive
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot run work after shutdown")
            heapq.heappush(self._waiting[kind], (deadline, next(self._order), job))
            self._changed.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with self._changed:
                begun, job.begun = job.begun, True  # so that no thread takes it
                self._changed.notify_all()  # jobs that had to wait for it may begin
            if begun:
                await job.wait_out()
            else:
                job.work = None  # no thread will run it, and it holds tensors
            raise

    def close(self) -> None:
        """Cancels waiting work and blocks until running work has ended: call it in a thread."""
        with self._changed:
            self._closed = True
            waiting = self._all_waiting()
            self._waiting = {kind: [] for kind in Kind}
            self._changed.notify_all()
        for _, _, job in waiting:
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(job.answer.cancel)
        for thread in self._threads:
            thread.join()

    def _all_waiting(self) -> list[_Entry]:
        return [entry for queue in self._waiting.values() for entry in queue]

    def _work(self) -> None:
        kind = None
        while (job := self._next(kind)) is not None:
            kind = job.kind
            job.run()
            del job

    def _next(self, ended: Kind | None) -> _Job[Any] | None:
        with self._changed:
            if ended is not None:
                self._running[ended] -= 1
            if ended is Kind.COMPARES:
                self._changed.notify_all()  # several jobs may have waited for its end
            while not self._closed:
                if (queue := self._first()) is not None:
                    _, _, job = heapq.heappop(queue)
                    job.begun = True
                    self._running[job.kind] += 1
                    return job
                self._changed.wait()
        return None

    def _first(self) -> "list[_Entry] | None":
        """The queue whose first job may begin and has the earliest deadline."""
        for queue in self._waiting.values():
            while queue and queue[0][2].begun:
                heapq.heappop(queue)  # its caller has left
        full = sum(self._running.values()) >= self._streams
        comparing = self._running[Kind.COMPARES]
        if comparing and full:
            return None
        usual, builds, compares = self._waiting.values()
        impatient = bool(builds) and time.monotonic() > builds[0][2].came + timing.KERNELS_WAIT_S
        spared = bool(usual or self._running[Kind.USUAL]) and not impatient
        most = max(1, self._streams - spared)
        may_begin = [
            usual,
            builds if self._running[Kind.BUILDS] < most else [],
            [] if comparing else compares,
        ]
        first = min((queue for queue in may_begin if queue), default=None)
        # If a comparison is first but cannot begin yet, later jobs wait with it.
        return None if first is compares and full else first


class SharedExecutions:
    """Shares an execution between versions of a model with equal thread and stream counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[tuple[int, int], Execution] = {}
        self._users: Counter[Execution] = Counter()

    def take(self, count: int, streams: int) -> Execution:
        """The execution for these counts; the caller gives it back once."""
        with self._lock:
            execution = self._shared.get((count, streams)) or Execution(count, streams)
            self._shared[count, streams] = execution
            self._users[execution] += 1
        return execution

    def give_back(self, execution: Execution) -> None:
        """Gives an execution back. The last user closes it, which blocks."""
        with self._lock:
            self._users[execution] -= 1
            last = not self._users[execution]
            if last:
                del self._users[execution]
                self._shared = {k: e for k, e in self._shared.items() if e is not execution}
        if last:
            execution.close()


async def shielded(work: "asyncio.Future[T]") -> T:
    """Awaits work in a thread. A cancelled caller waits until the work ends, too."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # retrieved here, because no other caller does
        raise
