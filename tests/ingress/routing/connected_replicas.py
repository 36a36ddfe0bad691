"""A replica that attends, and the connection to it, controlled by a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deployments.ingress.routing.connections import (
    Connection,
    ConnectionListener,
    ReplicaConnection,
)
from deployments.transport.connections import serve_connection
from tests.loops import until
from tests.transport.connection_peers import Answers


class Replica:
    """Attends as a replica does, unless `outcome` is another result or an error."""

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
        # A call that Serve has passed to a replica goes on when its caller is cancelled.
        return await asyncio.shield(asyncio.ensure_future(self._attend(name, token)))

    async def _attend(self, name: str, token: bytes) -> str | None:
        try:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            if self.outcome is None:
                await serve_connection(name, token, self.answers)
            return self.outcome
        finally:
            self.attending -= 1


class Scene:
    def __init__(self) -> None:
        self.listener = ConnectionListener()
        self.replica = Replica()
        self.kept = ReplicaConnection(self.listener, self.replica.attend)

    async def connected(self) -> Connection:
        await until(lambda: self.kept.usable is not None)
        assert self.kept.usable is not None
        return self.kept.usable

    async def call(self, connection: Connection, message: Any = "call") -> "asyncio.Task[Any]":
        """A call that the replica has received and not answered."""
        task = asyncio.create_task(connection.call(message))
        assert message == await self.replica.answers.asked.get()
        return task

    def answer(self, reply: Any = "reply") -> None:
        self.replica.answers.replies.put_nowait(reply)

    async def attending(self, count: int) -> None:
        await until(lambda: count == self.replica.attending)

    async def ended(self) -> None:
        await until(lambda: self.kept._task.done())


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    at = Scene()
    yield at
    at.kept.close()
    await at.listener.close()
    await until(lambda: not (at.replica.attending or at.listener._expected))
