"""Lanes: connections from a model replica to an ingress process of the same node.

A call through a Serve handle costs a few milliseconds; one through a Unix socket a tenth of one.
For a shape that is asked for again and again the ingress makes one long call through the handle,
`attend`, to the replica that it has chosen for the shape. That one connects back and answers
batches over the connection until the ingress closes it, which ends the call. So Serve knows of it,
and waits for its end before it stops a replica.

The socket has an abstract name (unix(7)), which no killed process can leave behind. Who connects
shows the token of the call before anything it sends is unpickled.
"""

import asyncio
import pickle
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

TOKEN_BYTES: Final = 16
_LENGTH_BYTES: Final = 4


class CannotConnect(OSError):
    """Raised when the ingress of a lane cannot be reached from here."""


class Wire(asyncio.Protocol):
    """Pickled messages in both directions, each behind its length in 4 bytes (little endian).

    Whoever accepts a connection gives `greeted`: it is handed the first TOKEN_BYTES bytes and says
    whether to go on. `received` gets every message, `lost` the end of the connection.
    """

    def __init__(self, greeted: "Callable[[bytes, Wire], bool] | None" = None) -> None:
        self.received: Callable[[Any], None] = lambda message: None
        self.lost: Callable[[], None] = lambda: None
        self._greeted = greeted
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._greeted is not None:
            if len(self._buffer) < TOKEN_BYTES:
                return
            token = bytes(self._buffer[:TOKEN_BYTES])
            del self._buffer[:TOKEN_BYTES]
            greeted, self._greeted = self._greeted, None
            if not greeted(token, self):
                self.close()
        while self.open and (message := self._next()) is not None:
            self.received(pickle.loads(message))

    def _next(self) -> bytes | None:
        end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")
        if len(self._buffer) < max(end, _LENGTH_BYTES + 1):
            return None
        message = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return message

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def greet(self, token: bytes) -> None:
        if self._transport is not None:
            self._transport.write(token)

    def send(self, message: Any) -> None:
        """Sends a message, or nothing where the connection has ended."""
        if self._transport is not None:
            content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            self._transport.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)

    def close(self) -> None:
        """Closes at once; what the other side has not taken yet is dropped."""
        if self._transport is not None:
            self._transport.abort()


def listening(name: str) -> socket.socket:
    """A listening socket with this abstract name, for `loop.create_unix_server`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(f"\0{name}")
    return listener


async def serve_connection(
    name: str, token: bytes, answer: Callable[[Any], Awaitable[Any]]
) -> None:
    """Connects to an ingress and answers its calls, until it closes the lane.

    Raises CannotConnect. What `answer` raises ends the lane and is raised.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(f"\0{name}")
    except OSError as error:
        connection.close()
        raise CannotConnect(error.errno, error.strerror) from None
    loop = asyncio.get_running_loop()
    wire = Wire()
    over: asyncio.Future[None] = loop.create_future()
    calls: set[asyncio.Task[None]] = set()

    async def answered(call: Any) -> None:
        try:
            wire.send(await answer(call))
        except asyncio.CancelledError:
            over.cancel()  # without a reply the lane is over
        except Exception as error:
            if not over.done():
                over.set_exception(error)

    def received(call: Any) -> None:
        task = loop.create_task(answered(call))
        calls.add(task)
        task.add_done_callback(calls.discard)

    wire.received = received
    wire.lost = lambda: None if over.done() else over.set_result(None)
    await loop.create_unix_connection(lambda: wire, sock=connection)
    wire.greet(token)
    try:
        await over
    finally:
        wire.close()
        if calls:
            await asyncio.wait(calls)
