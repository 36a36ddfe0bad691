"""The connection between an ingress process and a model's replica on the same node.

A call through a Serve handle costs a few milliseconds; one through a Unix socket a tenth of one.
When a replica appears, the ingress makes one long call to it through the handle, `attend`. The
replica connects back and answers calls over the connection until the ingress closes it, which ends
the long call. So Serve knows of the connection, and waits for its end before it stops the replica.

All calls between the two share the connection: each has an id, which its reply repeats.

The socket has an abstract name (unix(7)), which no killed process can leave behind. A peer must
send the token of the long call first: the ingress unpickles nothing before that.
"""

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

logger: Final = logging.getLogger("ray.serve")

TOKEN_BYTES: Final = 16
LARGEST_ID: Final = 2**32 - 1
_HEADER: Final = struct.Struct("<II?")
"""The size of the message in bytes, the id of its call, whether the call failed (little endian)."""


class CannotConnect(OSError):
    """Raised when this process cannot connect to an ingress."""


class Wire(asyncio.Protocol):
    """Sends and receives pickled messages, each after its header.

    The side that accepts a connection passes `greeted`, which gets the first TOKEN_BYTES bytes and
    returns whether to go on. It calls `received` for each message, with its id and whether the call
    failed, and `lost` at the end of the connection.
    """

    def __init__(self, greeted: "Callable[[bytes, Wire], bool] | None" = None) -> None:
        self.received: Callable[[int, Any, bool], None] = lambda number, message, failed: None
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
        while self.open and len(self._buffer) >= _HEADER.size:
            nbytes, number, failed = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + nbytes
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            self.received(number, pickle.loads(message), failed)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def greet(self, token: bytes) -> None:
        if self._transport is not None:
            self._transport.write(token)

    def send(self, number: int, message: Any, *, failed: bool = False) -> None:
        """Sends a message, or nothing if the connection has ended."""
        if self._transport is not None:
            content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            self._transport.write(_HEADER.pack(len(content), number, failed) + content)

    def close(self) -> None:
        """Closes at once, and drops data that the peer has not read."""
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
    """Connects to an ingress and answers its calls until it closes the connection.

    Then it waits for the calls in flight. If `answer` raises or is cancelled, only that call fails
    at the ingress. Raises CannotConnect.
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

    async def answered(number: int, call: Any) -> None:
        try:
            wire.send(number, await answer(call))
        except asyncio.CancelledError:
            wire.send(number, None, failed=True)
        except Exception:
            logger.exception("a call failed")
            wire.send(number, None, failed=True)

    def received(number: int, call: Any, failed: bool) -> None:
        task = loop.create_task(answered(number, call))
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
