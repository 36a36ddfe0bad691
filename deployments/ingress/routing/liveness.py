"""A replica that hangs: its process is there, so nobody says that it died, and it never answers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from deployments import timing

T = TypeVar("T")


class ReplicaUnresponsive(Exception):
    """Raised when neither an answer comes nor a sign of life."""


class LivenessWatch:
    """A context that asks a replica every five seconds whether it is `alive`.

    If it is not, the watch calls `give_up`, which has to end the work, and the context raises
    ReplicaUnresponsive instead of what the work raises. Unlike `unless_silent` it costs no task.
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
            raise ReplicaUnresponsive from error

    def _wait(self) -> None:
        self._next = asyncio.get_running_loop().call_later(timing.LIVENESS_S, self._ask)

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

    It is watched as by `LivenessWatch`, and need not end when it is given up: this raises
    ReplicaUnresponsive then. When the caller is cancelled, the work is cancelled too.
    """
    task = asyncio.ensure_future(work)
    given_up = asyncio.get_running_loop().create_future()
    try:
        with LivenessWatch(alive, partial(given_up.set_result, None)):
            await asyncio.wait((task, given_up), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ReplicaUnresponsive
        return task.result()
    finally:
        task.cancel()
