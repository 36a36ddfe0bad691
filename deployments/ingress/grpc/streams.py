"""A stream of requests that run together, answered in their order."""

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
    """The answers in the order of the messages, of which some are answered at once."""
    under_way: deque[asyncio.Future[Any]] = deque()
    arrived, room = asyncio.Event(), asyncio.Semaphore(_STREAM_AHEAD)

    async def read() -> None:
        try:
            async for message in messages:
                await room.acquire()
                under_way.append(asyncio.ensure_future(answer(message)))
                arrived.set()
        finally:
            arrived.set()

    reader = asyncio.ensure_future(read())
    try:
        while True:
            await arrived.wait()
            while under_way:
                yield await under_way[0]
                under_way.popleft()
                room.release()
            if reader.done():
                reader.result()
                return
            arrived.clear()
    finally:
        left: list[asyncio.Future[Any]] = [reader, *under_way]
        for task in left:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)
