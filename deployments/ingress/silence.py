"""A replica that hangs: its process is there, so nobody says that it died, and it never answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 5.0


class Silent(Exception):
    """Raised when neither an answer comes nor a sign of life."""


async def unless_silent(work: Awaitable[T], alive: Callable[[], Awaitable[bool]]) -> T:
    """The result of `work`, which may take as long as it takes, as a compilation does.

    Every five seconds whoever works is asked whether it is `alive`. Raises Silent if it is not;
    then, and when the caller leaves, the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait((task,), timeout=PATIENCE_S))[0]:
            if not await alive() and not task.done():
                raise Silent
        return task.result()
    finally:
        task.cancel()
