"""Execution slots: how many inferences a replica runs at once, over all compiled shapes."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Slots:
    """`count` places, given to whoever has the earliest deadline among those who wait."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(not future.done() for _, _, future in self._waiting)

    @asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[None]:
        """Holds a place; `deadline` is a time of the running loop's clock."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(deadline)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, deadline: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (deadline, next(self._order), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._pass_on()  # the place came in the same moment
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                return
        self._free += 1


class Execution:
    """Worker threads for inference, one for every slot."""

    def __init__(self, slots: int) -> None:
        self.slots = Slots(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="infer")

    async def run(
        self, deadline: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs `work` in a slot; of those who wait for one, the earliest deadline goes first.

        Work that has begun is waited for even when the caller is cancelled, because it reads
        memory that the caller would give back.
        """
        loop = asyncio.get_running_loop()
        async with self.slots.slot(deadline):
            return await to_the_end(
                loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))
            )

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


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
