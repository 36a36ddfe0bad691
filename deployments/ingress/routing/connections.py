"""The ingress's side of the lanes: where replicas connect, and which lane a batch takes."""

import asyncio
import contextvars
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from deployments.transport.connections import TOKEN_BYTES, Wire, listening

logger: Final = logging.getLogger("ray.serve")

_IDLE_S: Final = 1.0
_KEPT_S: Final = 60.0
_CONNECT_S: Final = 5.0
_AGAIN_S: Final = 1.0
_PAUSE_S: Final = 60.0
_MOST_LANES: Final = 64


class ConnectionLost(Exception):
    """Raised when a lane ends over a call: the replica died, or has left."""


class Connection:
    """A connected replica. Takes one call at a time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reply: asyncio.Future[Any] | None = None
        self.used = time.monotonic()
        self._retired = False
        wire.received, wire.lost = self._received, self._lost

    @property
    def busy(self) -> bool:
        return self._reply is not None

    @property
    def open(self) -> bool:
        return self._wire.open

    async def call(self, message: Any) -> Any:
        """The reply. Raises ConnectionLost. The lane ends with a caller that leaves."""
        assert not self.busy
        if not self.open:
            raise ConnectionLost
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._wire.send(message)
            return await self._reply
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._reply = None
            self.used = time.monotonic()
            if self._retired:
                self.close()

    def retire(self) -> None:
        """Closes the lane once its call is over."""
        self._retired = True
        if not self.busy:
            self.close()

    def close(self) -> None:
        self._wire.close()

    def _received(self, reply: Any) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def _lost(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionLost())


class ConnectionListener:
    """Where the replicas of all models connect to this process. Used on one event loop."""

    def __init__(self) -> None:
        self.name = f"anyshape-{secrets.token_hex(16)}"
        self._expected: dict[bytes, asyncio.Future[Connection]] = {}
        self._server: asyncio.Task[asyncio.AbstractServer] | None = None

    async def expect(self, token: bytes) -> "asyncio.Future[Connection]":
        """The lane of whoever will connect with this token; cancel it to expect nobody."""
        loop = asyncio.get_running_loop()
        if self._server is None:
            listener = listening(self.name)
            coroutine = loop.create_unix_server(lambda: Wire(self._greeted), sock=listener)
            self._server = contextvars.Context().run(loop.create_task, coroutine)
        await asyncio.shield(self._server)
        self._expected[token] = lane = loop.create_future()
        lane.add_done_callback(lambda _: self._expected.pop(token, None))
        return lane

    async def close(self) -> None:
        if self._server is not None:
            (await self._server).close()

    def _greeted(self, token: bytes, wire: Wire) -> bool:
        lane = self._expected.get(token)
        if lane is None or lane.done():
            return False
        lane.set_result(Connection(wire))
        return True


class ConnectionPool:
    """The lanes to one replica of a model.

    `attend` is the long call through the handle, given the meeting point's name and the token; it
    returns why the replica cannot connect, or nothing once the lane has ended. There are as many
    lanes as there were calls under way in the last second, from the second call within a minute
    on. The lane that was used last stays for a minute: who asks now and then does not wait for the
    handle.

    Soon after Serve does not name the replica any more, `named`, its lanes end with their calls,
    for which it waits.
    """

    def __init__(
        self,
        meeting: ConnectionListener,
        attend: Callable[[str, bytes], Awaitable[str | None]],
        named: Callable[[], bool] = lambda: True,
    ) -> None:
        self._meeting = meeting
        self._attend = attend
        self._named = named
        self._lanes: list[Connection] = []
        self._opening = False
        self._asked = float("-inf")
        self._calls: set[asyncio.Future[Any]] = set()
        self._paused_until = 0.0
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._lanes)

    def idle(self) -> Connection | None:
        """The lane that was used last of those that are idle. Where all are busy the call has to
        go through the handle, and one more is opened, one after the other."""
        now = time.monotonic()
        again = now - self._asked < _KEPT_S
        self._asked = now
        lanes = [lane for lane in self._lanes if lane.open]
        if idle := [lane for lane in lanes if not lane.busy]:
            return max(idle, key=lambda lane: lane.used)
        if again and not self._opening and len(lanes) < _MOST_LANES and now >= self._paused_until:
            self._opening = True
            # A fresh context: it must not end with the request that happens to be first.
            self._keep(contextvars.Context().run(asyncio.create_task, self._open()))
        return None

    def drop(self) -> None:
        """Closes the lanes after their calls: a replica that was lost may have more than one."""
        for lane in self._lanes:
            lane.retire()

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for lane in self._lanes:
            lane.close()
        for call in self._calls:
            call.cancel()

    async def _open(self) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            expected = await self._meeting.expect(token)
            call = asyncio.ensure_future(self._attend(self._meeting.name, token))
            self._keep(call)
            either: list[asyncio.Future[Any]] = [expected, call]
            try:
                await asyncio.wait(either, timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                if not expected.cancel():
                    expected.result().close()  # it came in the same moment
                raise
            if not expected.cancel():
                self._add(expected.result())
            elif not call.done():
                call.cancel()  # it waits for a replica: more of its kind would gather
            elif call.exception() is not None:
                self._paused_until = time.monotonic() + _AGAIN_S  # the handle tells what is wrong
            elif reason := call.result():
                self._pause(reason)
        except OSError as error:
            self._pause(f"this process cannot listen: {error.strerror}")
        finally:
            self._opening = False

    def _pause(self, reason: str) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        logger.warning("no direct connection: %s", reason)

    def _add(self, lane: Connection) -> None:
        self._lanes.append(lane)
        if self._sweeping is None:
            self._sweep()

    def _sweep(self) -> None:
        """Closes what has been idle, twice in that time; ends when no lane is left."""
        if not self._named():
            self.drop()
        now = time.monotonic()
        there = (lane for lane in self._lanes if lane.open)
        latest = max(there, key=lambda lane: (lane.busy, lane.used), default=None)
        for lane in self._lanes:
            kept_s = _KEPT_S if lane is latest else _IDLE_S
            if not lane.busy and now - lane.used > kept_s:
                lane.close()
        self._lanes = [lane for lane in self._lanes if lane.open or lane.busy]
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_IDLE_S / 2, self._sweep) if self._lanes else None

    def _keep(self, work: "asyncio.Future[Any]") -> None:
        self._calls.add(work)
        work.add_done_callback(self._calls.discard)
        work.add_done_callback(_looked_at)


def _looked_at(done: "asyncio.Future[Any]") -> None:
    """A call that fails because its replica died has nobody else to look at its exception."""
    with suppress(asyncio.CancelledError):
        done.exception()
