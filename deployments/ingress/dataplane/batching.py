"""Per-shape queues: requests with equal shape keys leave together.

A batch never waits for company. It leaves when fewer than `in_flight` batches of its key are
under way: at low load at once, under load when a batch comes back, and takes along all that has
gathered meanwhile, up to `max_rows`. Requests whose rows the model stacks gather sooner than those
that run side by side, which waiting would only hold up. A key that is being compiled for holds back
only itself; between keys the model's slots decide, earliest deadline first.
"""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

STACKED_IN_FLIGHT: Final = 2
"""One batch that runs and one that is ready when it is done."""
SIDE_BY_SIDE_IN_FLIGHT: Final = 4
"""Each is answered when the last of its requests is, so they leave alone while there are few. With
16 a shape that 64 clients ask for is answered more slowly."""


@dataclass(slots=True)
class _Waiting(Generic[ItemT, ResultT]):
    item: ItemT
    rows: int
    result: "asyncio.Future[ResultT]"


@dataclass(slots=True)
class _Queue(Generic[ItemT, ResultT]):
    waiting: "OrderedDict[asyncio.Future[ResultT], _Waiting[ItemT, ResultT]]" = field(
        default_factory=OrderedDict
    )
    under_way: int = 0
    starting: bool = False
    in_flight: int = STACKED_IN_FLIGHT

    @property
    def idle(self) -> bool:
        return not (self.under_way or self.starting or self.waiting)


class Batcher(Generic[KeyT, ItemT, ResultT]):
    """Gathers items by key and hands them to `send`, which answers item by item.

    An item's answer may be an exception, which is raised for that item alone. What `send`
    itself raises goes to every member of the batch.
    """

    def __init__(
        self,
        send: Callable[[KeyT, Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        max_rows: int,
    ) -> None:
        self._send = send
        self.max_rows = max_rows
        self._queues: dict[KeyT, _Queue[ItemT, ResultT]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0

    def submit(
        self, key: KeyT, rows: int, item: ItemT, in_flight: int = STACKED_IN_FLIGHT
    ) -> "asyncio.Future[ResultT]":
        """The answer to `item`, which counts as waiting until its answer is there. `in_flight` is
        of the key.

        Cancelling the answer leaves the batch-mates alone; an item that is still queued is let
        go of at once.
        """
        queue = self._queues.setdefault(key, _Queue())
        result: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        result.add_done_callback(partial(self._leave, queue))
        queue.in_flight = in_flight
        queue.waiting[result] = _Waiting(item, rows, result)
        self.waiting += 1
        self._start(key, queue)
        return result

    async def close(self) -> None:
        """Waits for the batches that are under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _leave(self, queue: _Queue[ItemT, ResultT], result: "asyncio.Future[ResultT]") -> None:
        queue.waiting.pop(result, None)
        self.waiting -= 1

    def _start(self, key: KeyT, queue: _Queue[ItemT, ResultT]) -> None:
        """Starts a batch, after the callbacks that are already due: one tick's arrivals meet."""
        if queue.waiting and not queue.starting and queue.under_way < queue.in_flight:
            queue.starting = True
            # A fresh context: the request that happens to be first must not own the call, or
            # its disconnect would cancel the others' too.
            task = contextvars.Context().run(asyncio.create_task, self._run(key, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif queue.idle:
            self._queues.pop(key, None)

    def _take(self, queue: _Queue[ItemT, ResultT]) -> list[_Waiting[ItemT, ResultT]]:
        """The longest-waiting items that fit into one batch; an oversized item goes alone."""
        batch: list[_Waiting[ItemT, ResultT]] = []
        rows = 0
        while queue.waiting:
            result, first = next(iter(queue.waiting.items()))
            if batch and rows + first.rows > self.max_rows:
                break
            del queue.waiting[result]
            if not result.done():  # else its caller has left in this tick
                batch.append(first)
                rows += first.rows
        return batch

    async def _run(self, key: KeyT, queue: _Queue[ItemT, ResultT]) -> None:
        queue.starting = False
        queue.under_way += 1
        try:
            if batch := self._take(queue):
                self._start(key, queue)  # what did not fit
                await self._answer(key, batch)
        finally:
            queue.under_way -= 1
            self._start(key, queue)

    async def _answer(self, key: KeyT, batch: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        try:
            answers = await self._send(key, [waiting.item for waiting in batch])
            # All of the pairs first: with an answer too many or too few, whose is which?
            for waiting, answer in list(zip(batch, answers, strict=True)):
                _settle(waiting.result, answer)
        except Exception as error:
            for waiting in batch:
                _settle(waiting.result, error)
        finally:
            for waiting in batch:
                waiting.result.cancel()  # does nothing to those that have their answer


def _settle(result: "asyncio.Future[ResultT]", answer: ResultT | Exception) -> None:
    if result.done():
        return
    if isinstance(answer, Exception):
        result.set_exception(answer)
    else:
        result.set_result(answer)
