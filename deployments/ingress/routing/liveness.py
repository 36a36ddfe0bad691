"""A replica that hangs: its process is there, so nobody says that it died, and it never answers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 5.0


class Silent(Exception):
    """Raised when neither an answer comes nor a sign of life."""


class Watch:
    """Asks whoever works every five seconds whether it is `alive`, while this is used as a context.

    If it is not, `give_up` is called, which has to end the work, and the context raises Silent
    instead of what the work raises. Unlike `unless_silent` it costs no task.
    """

    __slots__ = ("_alive", "_give_up", "_next", "_silent", "_task")

    def __init__(self, alive: Callable[[], Awaitable[bool]], give_up: Callable[[], None]) -> None:
        self._alive = alive
        self._give_up = give_up
        self._silent = False
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._wait()

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        self._next.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._silent and kind is not None and issubclass(kind, Exception):
            raise Silent from error

    def _wait(self) -> None:
        self._next = asyncio.get_running_loop().call_later(PATIENCE_S, self._ask)

    def _ask(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._asked())

    async def _asked(self) -> None:
        alive = False
        with suppress(Exception):
            alive = await self._alive()
        if alive:
            self._wait()
        else:
            self._silent = True
            self._give_up()


async def unless_silent(work: Awaitable[T], alive: Callable[[], Awaitable[bool]]) -> T:
    """The result of `work`, which may take as long as it takes, as a compilation does.

    It is watched as by `Watch`, and need not end when it is given up. Raises Silent then; and when
    the caller leaves, the work is cancelled too.
    """
    task = asyncio.ensure_future(work)
    given_up = asyncio.get_running_loop().create_future()
    try:
        with Watch(alive, partial(given_up.set_result, None)):
            await asyncio.wait((task, given_up), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Silent
        return task.result()
    finally:
        task.cancel()
