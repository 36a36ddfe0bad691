"""The compiled shapes of one model: hit, compile once, promote, evict.

Knows nothing of OpenVINO: what a compilation is and how to make one is handed in.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Generic, TypeVar

from deployments.inference import ShapeKey

CompiledT = TypeVar("CompiledT")

_REMEMBER_FAILURE_S: Final = 300.0
_REMEMBERED_KEYS: Final = 4096
_HALF_LIFE_S: Final = 60.0


@dataclass(slots=True)
class Counters:
    """What happened since the model was loaded."""

    hits: int = 0
    served_dynamic: int = 0
    compiles: int = 0
    compile_failures: int = 0
    compile_seconds: float = 0.0
    evictions: int = 0


@dataclass(slots=True)
class Interest:
    """How much a shape is asked for: a count of which half is forgotten every minute."""

    count: float = 0.0
    at: float = 0.0

    def add(self, amount: int, now: float) -> float:
        self.count = self.value(now) + amount
        self.at = now
        return self.count

    def value(self, now: float) -> float:
        return float(self.count * 0.5 ** ((now - self.at) / _HALF_LIFE_S))


@dataclass(slots=True)
class _Entry(Generic[CompiledT]):
    compiled: CompiledT
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class CompiledShapes(Generic[CompiledT]):
    """A bounded LRU cache of static compilations beside an optional dynamic one.

    `compile_shape` runs in `executor`, one at a time, under `lock`, which the deployment owns.
    Shapes that are compiled never touch the lock. There are never more than `bound` static
    compilations alive: one that is in use is waited for before its place is taken.
    """

    def __init__(
        self,
        compile_shape: Callable[[ShapeKey], CompiledT],
        dynamic: CompiledT | None,
        *,
        lock: asyncio.Lock,
        executor: Executor,
        bound: int,
        blocking: bool,
        promote_after: int,
        compiles_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compile_shape = compile_shape
        self._dynamic = dynamic
        self._blocking = blocking or dynamic is None
        self._lock = lock
        self._executor = executor
        self._bound = bound
        self._promote_after = promote_after
        self._compiles_per_minute = compiles_per_minute
        self._clock = clock
        self._entries: OrderedDict[ShapeKey, _Entry[CompiledT]] = OrderedDict()
        self._compiling: dict[ShapeKey, asyncio.Task[_Entry[CompiledT]]] = {}
        self._failed: OrderedDict[ShapeKey, tuple[Exception, float]] = OrderedDict()
        self._interest: OrderedDict[ShapeKey, Interest] = OrderedDict()
        self._background_compiles: deque[float] = deque()
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: ShapeKey) -> bool:
        return key in self._entries

    def statistics(self) -> dict[str, Any]:
        return {
            **asdict(self.counters),
            "compiled_shapes": len(self._entries),
            "max_compiled_shapes": self._bound,
            "compiling": len(self._compiling),
        }

    @asynccontextmanager
    async def use(
        self, key: ShapeKey, requests: int = 1, *, static: bool = False
    ) -> AsyncIterator[CompiledT]:
        """A compilation that can run `key`, held for as long as the context lasts.

        A known shape gets its own; another gets the dynamic one, or waits for its own where
        there is none, the model is `blocking` or `static` asks for it. Raises what
        `compile_shape` raised for this key, now or a while ago.
        """
        entry = self._entries.get(key)
        if entry is None and not static and not self._blocking:
            assert self._dynamic is not None
            self.counters.served_dynamic += requests
            self._note(key, requests)
            yield self._dynamic
            return
        if entry is None:
            entry = await self._compiled(key)
        else:
            self.counters.hits += requests
            self._interested(key).add(requests, self._clock())
            self._entries.move_to_end(key)
        entry.users += 1
        entry.unused.clear()
        try:
            yield entry.compiled
        finally:
            entry.users -= 1
            if not entry.users:
                entry.unused.set()

    async def close(self) -> None:
        """Waits for the compilation that is under way; those that wait are cancelled."""
        for task in (tasks := list(self._compiling.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, key: ShapeKey, requests: int) -> None:
        """Counts requests for a shape without a compilation, and promotes it when it pays."""
        now = self._clock()
        interest = self._interested(key).add(requests, now)
        if interest < self._promote_after or key in self._compiling or self._failure(key):
            return
        if len(self._entries) >= self._bound:
            coldest = self._interested(next(iter(self._entries)))
            if interest <= 2 * coldest.value(now):
                return  # not worth the place of what is there
        if self._within_budget(now):
            self._background_compiles.append(now)
            self._start(key)

    def _interested(self, key: ShapeKey) -> Interest:
        interest = self._interest.setdefault(key, Interest())
        self._interest.move_to_end(key)
        if len(self._interest) > _REMEMBERED_KEYS:
            self._interest.popitem(last=False)
        return interest

    def _within_budget(self, now: float) -> bool:
        while self._background_compiles and self._background_compiles[0] < now - 60.0:
            self._background_compiles.popleft()
        return len(self._background_compiles) < self._compiles_per_minute

    def _failure(self, key: ShapeKey) -> Exception | None:
        error, until = self._failed.get(key, (None, 0.0))
        if error is not None and self._clock() >= until:
            del self._failed[key]
            return None
        return error

    async def _compiled(self, key: ShapeKey) -> _Entry[CompiledT]:
        if (error := self._failure(key)) is not None:
            raise error
        task = self._compiling.get(key) or self._start(key)
        # The compilation belongs to everybody who waits for it: one who leaves does not end it.
        return await asyncio.shield(task)

    def _start(self, key: ShapeKey) -> "asyncio.Task[_Entry[CompiledT]]":
        task = asyncio.get_running_loop().create_task(self._compile(key))
        self._compiling[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))
        return task

    def _finished(self, key: ShapeKey, task: "asyncio.Task[_Entry[CompiledT]]") -> None:
        self._compiling.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at here: nobody may wait for a background compilation

    async def _compile(self, key: ShapeKey) -> _Entry[CompiledT]:
        async with self._lock:
            if (entry := self._entries.get(key)) is not None:
                return entry
            await self._make_room()
            started = self._clock()
            loop = asyncio.get_running_loop()
            try:
                compiled = await loop.run_in_executor(self._executor, self._compile_shape, key)
            except Exception as error:
                self._remember_failure(key, error)
                raise
            self.counters.compiles += 1
            self.counters.compile_seconds += self._clock() - started
            entry = self._entries[key] = _Entry(compiled)
            return entry

    async def _make_room(self) -> None:
        while len(self._entries) >= self._bound:
            _, oldest = self._entries.popitem(last=False)
            self.counters.evictions += 1
            if oldest.users:
                await oldest.unused.wait()

    def _remember_failure(self, key: ShapeKey, error: Exception) -> None:
        self.counters.compile_failures += 1
        self._failed[key] = error, self._clock() + _REMEMBER_FAILURE_S
        if len(self._failed) > _REMEMBERED_KEYS:
            self._failed.popitem(last=False)
