"""The ingress's side of its connections to the replicas on its node."""

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from deployments import timing
from deployments.transport.connections import LARGEST_ID, TOKEN_BYTES, Wire, listening

logger: Final = logging.getLogger("ray.serve")


class ConnectionLost(Exception):
    """Raised when a connection ends during a call: the replica died or left."""


class CallFailed(Exception):
    """Raised when a call raised an error in the replica, whose log has it."""


class Connection:
    """A connection to a replica, for any number of calls at once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._retired = False
        wire.received, wire.lost = self._received, self._lost

    @property
    def usable(self) -> bool:
        """Whether the connection takes further calls."""
        return self._wire.open and not self._retired

    async def call(self, message: Any) -> Any:
        """Sends a call, returns the reply. Raises ConnectionLost, CallFailed.

        Drops the reply if the caller is cancelled.
        """
        if not self._wire.open:
            raise ConnectionLost
        number = self._last = self._last % LARGEST_ID + 1
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._wire.send(number, message)
            return await reply
        finally:
            del self._replies[number]
            if self._retired and not self._replies:
                self.close()

    def retire(self) -> None:
        """Takes no further calls, and closes after those in flight."""
        self._retired = True
        if not self._replies:
            self.close()

    def close(self) -> None:
        self._wire.close()

    def _received(self, number: int, reply: Any, failed: bool) -> None:
        waiting = self._replies.get(number)
        if waiting is None or waiting.done():
            return
        if failed:
            waiting.set_exception(CallFailed())
        else:
            waiting.set_result(reply)

    def _lost(self) -> None:
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ConnectionLost())


class ConnectionListener:
    """The socket to which the replicas of all models connect. For one event loop."""

    def __init__(self) -> None:
        self.name = f"anyshape-{secrets.token_hex(16)}"
        self._expected: dict[bytes, asyncio.Future[Connection]] = {}
        self._server: asyncio.Task[asyncio.AbstractServer] | None = None

    async def expect(self, token: bytes) -> "asyncio.Future[Connection]":
        """Expects a peer with this token; returns its connection. Cancel it to refuse the token.

        Raises OSError if this process cannot listen.
        """
        loop = asyncio.get_running_loop()
        if self._server is None:
            listener = listening(self.name)
            coroutine = loop.create_unix_server(lambda: Wire(self._greeted), sock=listener)
            self._server = contextvars.Context().run(loop.create_task, coroutine)
        await asyncio.shield(self._server)
        self._expected[token] = connection = loop.create_future()
        connection.add_done_callback(lambda _: self._expected.pop(token, None))
        return connection

    async def close(self) -> None:
        if self._server is not None:
            (await self._server).close()

    def _greeted(self, token: bytes, wire: Wire) -> bool:
        expected = self._expected.get(token)
        if expected is None or expected.done():
            return False
        expected.set_result(Connection(wire))
        return True


class ReplicaConnection:
    """Keeps a connection to one replica open, and reconnects when it is lost.

    `attend` makes the long call through the handle, with the listener's name and a token. It
    returns the reason if the replica cannot connect, or None when the connection has ended.
    """

    def __init__(
        self,
        listener: ConnectionListener,
        attend: Callable[[str, bytes], Awaitable[str | None]],
    ) -> None:
        self._listener = listener
        self._attend = attend
        self._connection: Connection | None = None
        self._retired = False
        # A fresh context: the task must not end with the request that started it.
        self._task = contextvars.Context().run(asyncio.create_task, self._keep_open())

    @property
    def usable(self) -> Connection | None:
        """The connection, if it takes calls now."""
        connection = self._connection
        return connection if connection is not None and connection.usable else None

    def retire(self) -> None:
        """Closes the connection after the calls in flight, and does not reconnect."""
        self._retired = True
        if self._connection is None:
            self.close()
        else:
            self._connection.retire()

    def close(self) -> None:
        """Closes the connection at once, and does not reconnect. Its calls raise ConnectionLost."""
        self._task.cancel()

    async def _keep_open(self) -> None:
        while True:
            pause_s = await self._connected()
            if self._retired:
                return
            await asyncio.sleep(pause_s)

    async def _connected(self) -> float:
        """Connects, waits for the end of the connection, returns the seconds until the next try."""
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            expected = await self._listener.expect(token)
        except OSError as error:
            return self._refused(f"this process cannot listen: {error.strerror}")
        attending = asyncio.ensure_future(self._attend(self._listener.name, token))
        attending.add_done_callback(_retrieved)
        try:
            either: list[asyncio.Future[Any]] = [expected, attending]
            await asyncio.wait(
                either, timeout=timing.CONNECT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if expected.done():
                self._connection = expected.result()
                await asyncio.wait([attending])
        finally:
            self._connection = None
            if not expected.cancel():
                expected.result().close()  # the replica's end of `attend` follows
            else:
                attending.cancel()  # else such calls would pile up while there is no replica
        if not attending.done() or attending.cancelled() or attending.exception() is not None:
            return timing.RECONNECT_S
        reason = attending.result()
        return self._refused(reason) if reason else timing.RECONNECT_S

    def _refused(self, reason: str) -> float:
        logger.warning("no direct connection to a replica: %s", reason)
        return timing.RECONNECT_REFUSED_S


def _retrieved(done: "asyncio.Future[Any]") -> None:
    """Retrieves the exception of a call, which has failed if its replica died."""
    if not done.cancelled():
        done.exception()
