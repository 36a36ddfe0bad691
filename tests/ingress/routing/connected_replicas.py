"""A model's replicas that attend, and the time, in the hands of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.ingress.routing import connections as module
from deployments.ingress.routing.connections import Connection, ConnectionListener, ConnectionPool
from deployments.transport import connections as wire_side
from tests.loops import until
from tests.transport.connection_peers import Answers


class Clock:
    """Time for the lanes, which stands still until the test lets it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Replica:
    """Attends as a replica does, unless `outcome` has something else to return or to raise."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.tokens: list[bytes] = []
        self.outcome: str | Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.attending = 0

    async def attend(self, name: str, token: bytes) -> str | None:
        self.tokens.append(token)
        self.attending += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.attending -= 1
            raise
        # What Serve has given to a replica goes on there when its caller leaves.
        return await asyncio.shield(asyncio.ensure_future(self._attend(name, token)))

    async def _attend(self, name: str, token: bytes) -> str | None:
        try:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            if self.outcome is None:
                await wire_side.serve_connection(name, token, self.answers)
            return self.outcome
        finally:
            self.attending -= 1


class Scene:
    def __init__(self) -> None:
        self.meeting = ConnectionListener()
        self.replica = Replica()
        self.named = True
        self.lanes = ConnectionPool(self.meeting, self.replica.attend, lambda: self.named)

    async def lane(self) -> Connection:
        """One that is idle, opened where all others are busy."""
        for _ in range(2):
            self.lanes.idle()
        await self.opened()
        lane = self.lanes.idle()
        assert lane is not None
        return lane

    async def lanes_and_calls(self, count: int) -> "list[tuple[Connection, asyncio.Task[Any]]]":
        """So many lanes, each with a call that the replica has got and not answered."""
        return [(lane := await self.lane(), await self.call(lane)) for _ in range(count)]

    async def used(self, count: int) -> list[Connection]:
        """So many lanes, all idle: the first was used first."""
        busy = await self.lanes_and_calls(count)
        for _, call in busy:
            self.answer()
            await call
        return [lane for lane, _ in busy]

    async def opened(self) -> None:
        await until(lambda: not self.lanes._opening)

    async def call(self, lane: Connection, message: Any = "call") -> "asyncio.Task[Any]":
        """A call that the replica has got and not answered."""
        task = asyncio.create_task(lane.call(message))
        assert message == await self.replica.answers.asked.get()
        return task

    async def use(self, lane: Connection) -> None:
        """A call that is answered."""
        call = await self.call(lane)
        self.answer()
        assert "reply" == await call

    def answer(self, reply: Any = "reply") -> None:
        self.replica.answers.replies.put_nowait(reply)

    async def attending(self, count: int) -> None:
        await until(lambda: count == self.replica.attending)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    at = Scene()
    yield at
    at.lanes.close()
    await at.meeting.close()
    await until(lambda: not (at.replica.attending or at.lanes._calls or at.meeting._expected))
