"""One compiled shape and its users, and what is counted of all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

CompiledT = TypeVar("CompiledT")


@dataclass(slots=True)
class Counters:
    """What happened since the model was loaded."""

    hits: int = 0
    served_dynamic: int = 0
    compiles: int = 0
    compile_failures: int = 0
    compile_seconds: float = 0.0
    evictions: int = 0
    not_worth_it: int = 0


@dataclass(slots=True)
class Entry(Generic[CompiledT]):
    """A static compilation, done or in progress, and how many requests use it or wait for it.

    `checked` says that its answers were compared with another compilation's.
    """

    compilation: "asyncio.Task[CompiledT]"
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    checked: bool = False
    took_s: float = 0.0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[CompiledT]:
        """The compilation, which is in use for as long as the context lasts.

        A request that waits for it counts as a user: else the place could be taken before its turn.
        """
        self.users += 1
        self.unused.clear()
        try:
            # All that wait share the compilation: one that is cancelled does not end it.
            yield await asyncio.shield(self.compilation)
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()
