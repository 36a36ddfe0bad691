"""The receiving end of a batcher, controlled by a test."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deployments.ingress.dataplane.batching import Batcher


class Refused(Exception):
    """An answer that is an error."""


@dataclass(frozen=True)
class Call:
    """A sent batch, which the test answers."""

    key: str
    items: list[str]
    answers: "asyncio.Future[Sequence[str | Exception]]"

    def answer(self) -> None:
        self.answers.set_result([f"{item} done" for item in self.items])


class Model:
    """The receiving end of a batcher: it records batches, which wait for the test."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.arrived: asyncio.Queue[Call] = asyncio.Queue()

    async def send(self, key: str, items: Sequence[str]) -> Sequence[str | Exception]:
        call = Call(key, list(items), asyncio.get_running_loop().create_future())
        self.calls.append(call)
        self.arrived.put_nowait(call)
        return await call.answers

    @property
    def sent(self) -> list[list[str]]:
        return [call.items for call in self.calls]


Send = Callable[[str, Sequence[str]], Awaitable[Sequence[str | Exception]]]


class BoundedBatcher(Batcher[str, str, str]):
    """A batcher with a limit of batches in flight for every key."""

    def __init__(self, send: Send, max_rows: int, in_flight: int) -> None:
        super().__init__(send, max_rows)
        self._in_flight = in_flight

    def submit(self, key: str, rows: int, item: str, in_flight: int = 0) -> "asyncio.Future[str]":
        return super().submit(key, rows, item, in_flight or self._in_flight)


def batcher(send: Send, max_rows: int = 8, in_flight: int = 1) -> BoundedBatcher:
    return BoundedBatcher(send, max_rows, in_flight)


async def quiet() -> None:
    """Lets the loop run all callbacks that are due, and those that they schedule."""
    for _ in range(10):
        await asyncio.sleep(0)


def is_idle(batches: Batcher[str, str, str]) -> bool:
    return not (batches.waiting or batches._queues or batches._tasks)
