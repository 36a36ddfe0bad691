"""Execution: how many inferences a replica runs at once, over all compiled shapes."""

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
    """What an inference does beside inferring, and so who may run beside it."""

    USUAL = auto()
    BUILDS = auto()
    """OpenVINO builds kernels for it. It fills the device's streams and no more: other work finds a
    thread free. And while there is other work, it leaves a stream free, where there are two, until
    it has waited for a quarter of a second."""
    COMPARES = auto()
    """It runs two compilations, each of which has the device's streams, to see which is faster. No
    more runs beside it than the streams take, and not another of its kind."""


class _Job(Generic[T]):
    """Work that waits, runs, or is over. All but `work` and `begun` belongs to the event loop."""

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

    Of some kinds not everything may run beside everything else, see `Kind`.

    Not an executor of the standard library: those know no deadlines, and take an answer through
    three more turns of the event loop.
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
        """How much work has not begun."""
        with self._changed:
            return sum(not job.answer.done() for _, _, job in self._all_waiting())

    async def run(self, deadline: float, work: Callable[[], T], kind: Kind = Kind.USUAL) -> T:
        """Runs `work` in a thread; `deadline` only decides whose turn it is.

        Work that has begun is waited for even when the caller is cancelled, because it reads
        memory that the caller would give back. Raises RuntimeError after `close`.
        """
        job = _Job(work, kind)
        del work  # it must not outlive its turn
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot run work after shutdown")
            heapq.heappush(self._waiting[kind], (deadline, next(self._order), job))
            self._changed.notify()
        try:
            return await job.answer
        except asyncio.CancelledError:
            with self._changed:
                begun, job.begun = job.begun, True  # so that it does not begin any more
                self._changed.notify_all()  # what had to wait for it may begin
            if begun:
                await job.wait_out()
            else:
                job.work = None  # nobody will run it, and it holds tensors
            raise

    def close(self) -> None:
        """Ends after the work that has begun; what has not is cancelled. Not for the event loop."""
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
                self._changed.notify_all()  # more than one may have waited for its end
            while not self._closed:
                if (queue := self._first()) is not None:
                    _, _, job = heapq.heappop(queue)
                    job.begun = True
                    self._running[job.kind] += 1
                    return job
                self._changed.wait()
        return None

    def _first(self) -> "list[_Entry] | None":
        """The queue whose first may begin, and has the earliest deadline."""
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
        # What compares has its turn like any other: others wait with it until it can begin.
        return None if first is compares and full else first


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


async def shielded(work: "asyncio.Future[T]") -> T:
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
