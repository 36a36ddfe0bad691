"""Queues for each shape: requests with equal shape keys leave together.

A batch never waits for more requests. It leaves when fewer than `in_flight` batches of its key are
in flight, and takes all requests that have gathered, up to `max_rows`. So it leaves at once at low
load, and under load when a batch comes back. `in_flight` is lower where the model stacks rows, so
that more requests gather; where they run side by side, waiting would only delay them. A key that
waits for a compilation delays no other key. Between keys, the model's slots decide, earliest
deadline first.
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
"""One batch runs, and one is ready when that is done."""
SIDE_BY_SIDE_IN_FLIGHT: Final = 4
"""A batch is answered when its last request is, so requests leave alone while there are few. With
16, a shape that 64 clients request is answered more slowly."""


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
    """Gathers items by key and passes them to `send`, which answers item by item.

    An item's answer may be an exception, which is raised for that item alone. An exception of
    `send` itself is raised for every item of the batch.
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
        """Queues an item and returns its answer; the item counts as waiting until it is answered.

        `in_flight` limits the batches of the key. Cancelling the answer drops an item that is
        still queued, and does not affect other items of the batch.
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
        """Waits for the batches in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _leave(self, queue: _Queue[ItemT, ResultT], result: "asyncio.Future[ResultT]") -> None:
        queue.waiting.pop(result, None)
        self.waiting -= 1

    def _start(self, key: KeyT, queue: _Queue[ItemT, ResultT]) -> None:
        """Starts a batch after the callbacks that are due, so that it has one tick's arrivals."""
        if queue.waiting and not queue.starting and queue.under_way < queue.in_flight:
            queue.starting = True
            # A fresh context: the first request must not own the call, or its disconnect would
            # cancel the other requests too.
            task = contextvars.Context().run(asyncio.create_task, self._run(key, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif queue.idle:
            self._queues.pop(key, None)

    def _take(self, queue: _Queue[ItemT, ResultT]) -> list[_Waiting[ItemT, ResultT]]:
        """Takes the longest-waiting items that fit into one batch; an oversized item goes alone."""
        batch: list[_Waiting[ItemT, ResultT]] = []
        rows = 0
        while queue.waiting:
            result, first = next(iter(queue.waiting.items()))
            if batch and rows + first.rows > self.max_rows:
                break
            del queue.waiting[result]
            if not result.done():  # else its caller cancelled it in this tick
                batch.append(first)
                rows += first.rows
        return batch

    async def _run(self, key: KeyT, queue: _Queue[ItemT, ResultT]) -> None:
        queue.starting = False
        queue.under_way += 1
        try:
            if batch := self._take(queue):
                self._start(key, queue)  # for the items that did not fit
                await self._answer(key, batch)
        finally:
            queue.under_way -= 1
            self._start(key, queue)

    async def _answer(self, key: KeyT, batch: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        try:
            answers = await self._send(key, [waiting.item for waiting in batch])
            # Pairs all of them first: a wrong number of answers must not settle any item.
            for waiting, answer in list(zip(batch, answers, strict=True)):
                _settle(waiting.result, answer)
        except Exception as error:
            for waiting in batch:
                _settle(waiting.result, error)
        finally:
            for waiting in batch:
                waiting.result.cancel()  # does nothing if it has its answer


def _settle(result: "asyncio.Future[ResultT]", answer: ResultT | Exception) -> None:
    if result.done():
        return
    if isinstance(answer, Exception):
        result.set_exception(answer)
    else:
        result.set_result(answer)
