"""Reshapes and compiles, one shape at a time, under the deployment's lock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.inference import ShapeKey
from deployments.model.execution.executor import shielded

CompiledT = TypeVar("CompiledT")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[CompiledT]):
    """The result or the error of a compilation, and the seconds that it took with its reshape."""

    compiled: CompiledT | None
    error: Exception | None
    took_s: float


class ShapeCompiler(Generic[CompiledT]):
    """Reshapes and compiles one shape at a time under `lock`, which the deployment owns.

    `reshape` returns the function that compiles the shape. Both run in a thread of `executor` if a
    request waits for the compilation, else of `background`.
    """

    def __init__(
        self,
        reshape: Callable[[ShapeKey], Callable[[], CompiledT]],
        lock: asyncio.Lock,
        executor: Executor,
        background: Executor,
        clock: Callable[[], float],
    ) -> None:
        self._reshape = reshape
        self._lock = lock
        self._executor = executor
        self._background = background
        self._clock = clock
        self._since: float | None = None

    @property
    def compiling_s(self) -> float:
        """The seconds since the running compilation began, 0 if none runs."""
        return 0.0 if self._since is None else self._clock() - self._since

    async def compile(
        self, key: ShapeKey, room: Callable[[], Awaitable[None]], *, background: bool
    ) -> Outcome[CompiledT]:
        """Reshapes, awaits `room` and compiles. A shape that fails to reshape evicts nothing."""
        executor = self._background if background else self._executor
        compiled, failure = None, None
        async with self._alone() as started:
            try:
                compile_it = await _in_thread(lambda: self._reshape(key), executor)
                await room()
                compiled = await _in_thread(compile_it, executor)
            except Exception as error:
                failure = error
            return Outcome(compiled, failure, self._clock() - started)

    async def compile_uncached(self, work: Callable[[], T]) -> T:
        """Runs a compilation that is not for the cache, in the background under the lock."""
        async with self._alone():
            return await _in_thread(work, self._background)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[float]:
        """Holds the lock, and gives the time at which it was taken."""
        async with self._lock:
            started = self._since = self._clock()
            try:
                yield started
            finally:
                self._since = None

    def release(self) -> None:
        """Drops `reshape`, which refers back to the owner."""
        self._reshape = _released


async def _in_thread(work: Callable[[], T], executor: Executor) -> T:
    return await shielded(asyncio.get_running_loop().run_in_executor(executor, work))


def _released(key: ShapeKey) -> Callable[[], CompiledT]:
    raise RuntimeError("its version is unloaded")
