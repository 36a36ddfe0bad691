"""Reshaping and compiling, one at a time, under the deployment's lock."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.inference import ShapeKey
from deployments.model.execution.executor import shielded

CompiledT = TypeVar("CompiledT")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[CompiledT]):
    """What became of a compilation, and the seconds that it took with its reshape."""

    compiled: CompiledT | None
    error: Exception | None
    took_s: float


class ShapeCompiler(Generic[CompiledT]):
    """`reshape` runs in a thread, one at a time, under `lock`, which the deployment owns. It
    returns what compiles the shape, which runs there too: in `executor` where a request waits for
    it, else in `background`.
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
        """For how long a compilation has been in progress; 0 if none is."""
        return 0.0 if self._since is None else self._clock() - self._since

    async def compile(
        self, key: ShapeKey, room: Callable[[], Awaitable[None]], *, background: bool
    ) -> Outcome[CompiledT]:
        """Reshapes, waits for `room` and compiles. A shape that fails to reshape takes no room."""
        executor = self._background if background else self._executor
        compiled, failure = None, None
        async with self._lock:
            started = self._since = self._clock()
            try:
                compile_it = await _in_thread(lambda: self._reshape(key), executor)
                await room()
                compiled = await _in_thread(compile_it, executor)
            except Exception as error:
                failure = error
            finally:
                self._since = None
            return Outcome(compiled, failure, self._clock() - started)

    async def beside(self, work: Callable[[], T]) -> T:
        """Reshapes and compiles what is not for the cache, in the background under the lock."""
        async with self._lock:
            self._since = self._clock()
            try:
                return await _in_thread(work, self._background)
            finally:
                self._since = None

    def release(self) -> None:
        """Keeps nothing that compiles: its owner owns this too."""
        self._reshape = _released


async def _in_thread(work: Callable[[], T], executor: Executor) -> T:
    return await shielded(asyncio.get_running_loop().run_in_executor(executor, work))


def _released(key: ShapeKey) -> Callable[[], CompiledT]:
    raise RuntimeError("its version is unloaded")
