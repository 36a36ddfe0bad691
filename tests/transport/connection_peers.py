"""Both ends of a connection, controlled by a test."""

import asyncio
import pickle
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, TypeAlias

from deployments.transport.connections import TOKEN_BYTES, Wire, listening

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Bomb:
    """An object that counts when it is unpickled."""

    exploded: ClassVar[int] = 0

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    Bomb.exploded += 1


def framed(message: Any, number: int = 1) -> bytes:
    content = pickle.dumps(message)
    return struct.pack("<II?", len(content), number, False) + content


async def connected(name: str) -> Streams:
    """A peer that sends and receives bytes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(f"\0{name}")
    return await asyncio.open_unix_connection(sock=connection)


async def closed_by_peer(reader: asyncio.StreamReader) -> bool:
    try:
        return b"" == await reader.read()
    except ConnectionError:  # it closed before it had read all data
        return True


async def hung_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):  # the peer closed first
        await writer.wait_closed()


class Host:
    """The ingress's side: accepts peers with the token, and records messages."""

    def __init__(self) -> None:
        self.name = f"anyshape-test-{secrets.token_hex(8)}"
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.wires: asyncio.Queue[Wire] = asyncio.Queue()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.numbers: list[int] = []
        self.failed: list[int] = []
        self.lost = asyncio.Event()
        self.refused = 0

    def greeted(self, token: bytes, wire: Wire) -> bool:
        if token != self.token:
            self.refused += 1
            return False
        wire.received, wire.lost = self._received, self.lost.set
        self.wires.put_nowait(wire)
        return True

    def _received(self, number: int, message: Any, failed: bool) -> None:
        self.numbers.append(number)
        if failed:
            self.failed.append(number)
        self.messages.put_nowait(message)


@asynccontextmanager
async def hosting() -> AsyncIterator[Host]:
    host = Host()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Wire(host.greeted), sock=listening(host.name)
    )
    yield host
    while not host.wires.empty():
        host.wires.get_nowait().close()
    server.close()


class Answers:
    """The replica's side: a call waits until the test answers it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, call: Any) -> Any:
        self.asked.put_nowait(call)
        reply = await self.replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply


async def echo(call: Any) -> Any:
    return call
