"""Detects a replica that hangs: its process lives, so Ray does not report it dead."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from deployments import timing

T = TypeVar("T")


class ReplicaUnresponsive(Exception):
    """Raised when a replica neither answers nor gives a sign of life."""


class LivenessWatch:
    """A context that asks a replica every five seconds whether it is `alive`.

    If it is not, the watch calls `give_up`, which must end the work. Then the context raises
    ReplicaUnresponsive instead of the work's error. Unlike `unless_silent` it needs no task.
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
        self._next = asyncio.get_running_loop().call_later(timing.LIVENESS_S, self._start_check)

    def _start_check(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._check())

    async def _check(self) -> None:
        alive = False
        with suppress(Exception):
            alive = await self._alive()
        if alive:
            self._wait()
        else:
            self._silent = True
            self._give_up()


async def unless_silent(work: Awaitable[T], alive: Callable[[], Awaitable[bool]]) -> T:
    """Awaits `work` without a timeout while the replica is `alive`: a compilation may take long.

    Raises ReplicaUnresponsive when a `LivenessWatch` gives up, also if the work does not end then.
    Cancels the work when the caller is cancelled.
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
