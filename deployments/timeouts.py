"""A time limit that costs no task."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.wait_for`, which costs a task before Python 3.12. Raises TimeoutError,
    before Python 3.11 that of asyncio."""
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(work, seconds)
    async with asyncio.timeout(seconds):
        return await work
