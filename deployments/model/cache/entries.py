"""A compiled shape with its users, and the counters of the cache."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

CompiledT = TypeVar("CompiledT")


@dataclass(slots=True)
class Counters:
    """Counts events since the model was loaded."""

    hits: int = 0
    served_dynamic: int = 0
    compiles: int = 0
    compile_failures: int = 0
    compile_seconds: float = 0.0
    evictions: int = 0
    not_worth_it: int = 0


@dataclass(slots=True)
class Entry(Generic[CompiledT]):
    """A static compilation, done or running, and the number of requests that use or await it.

    `checked` is whether its answers were compared with those of another compilation.
    """

    compilation: "asyncio.Task[CompiledT]"
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    checked: bool = False
    took_s: float = 0.0

    def with_other(self, compiled: CompiledT) -> "Entry[CompiledT]":
        """An entry for another compilation in place of this one, which counts as checked."""
        task = asyncio.get_running_loop().create_task(_value(compiled))
        return Entry(task, checked=True, took_s=self.took_s)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[CompiledT]:
        """Awaits the compilation, and counts as a user of it during the context.

        A request that waits counts too: else the entry could be evicted before its turn.
        """
        self.users += 1
        self.unused.clear()
        try:
            # Requests share the compilation: cancelling one of them does not cancel it.
            yield await asyncio.shield(self.compilation)
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()


async def _value(value: CompiledT) -> CompiledT:
    return value
