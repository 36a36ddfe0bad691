"""Streams of requests that run together and are answered in their order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from google.protobuf.message import Message

_STREAM_AHEAD: Final = 64


async def in_order(
    messages: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[Message]]
) -> AsyncGenerator[Message, None]:
    """Yields the answers in the order of the messages; a limited number is in flight at once."""
    in_flight: deque[asyncio.Future[Any]] = deque()
    arrived, room = asyncio.Event(), asyncio.Semaphore(_STREAM_AHEAD)

    async def read() -> None:
        try:
            async for message in messages:
                await room.acquire()
                in_flight.append(asyncio.ensure_future(answer(message)))
                arrived.set()
        finally:
            arrived.set()

    reader = asyncio.ensure_future(read())
    try:
        while True:
            await arrived.wait()
            while in_flight:
                yield await in_flight[0]
                in_flight.popleft()
                room.release()
            if reader.done():
                reader.result()
                return
            arrived.clear()
    finally:
        left: list[asyncio.Future[Any]] = [reader, *in_flight]
        for task in left:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)
