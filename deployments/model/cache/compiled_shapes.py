"""The compiled shapes of one model: hit, compile once, promote, evict.

Knows nothing of OpenVINO: what a compilation is and how to make one is handed in.
"""

import asyncio
import copy
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from deployments import timing
from deployments.inference import ShapeKey
from deployments.model.cache.compiling import ShapeCompiler
from deployments.model.cache.demand import Demand
from deployments.model.cache.entries import Counters, Entry
from deployments.model.cache.failures import ExpiringByShape
from deployments.model.cache.reshape_events import Reason, Reshape
from deployments.model.cache.shape_statistics import ShapeStatistics
from deployments.observability.shape_records import CacheBounds, State

CompiledT = TypeVar("CompiledT")
T = TypeVar("T")


class CompiledShapes(Generic[CompiledT]):
    """A bounded LRU cache of static compilations beside an optional dynamic one.

    A `ShapeCompiler` makes them; shapes that are compiled never touch its lock. At most `bound`
    static compilations are alive: before one that is in use is replaced, its users finish.

    A compilation that is made in the background answers nothing yet: it is on trial until it is
    kept or discarded. `reshaped` is called for every reshape when that is decided, `evicted` for
    every compilation that is evicted.
    """

    def __init__(
        self,
        reshape: Callable[[ShapeKey], Callable[[], CompiledT]],
        dynamic: CompiledT | None,
        *,
        lock: asyncio.Lock,
        executor: Executor,
        background: Executor | None = None,
        bound: int,
        blocking: bool,
        promote_after: int,
        compiles_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        seen: ShapeStatistics | None = None,
        reshaped: Callable[[Reshape], None] = lambda reshape: None,
        evicted: Callable[[], None] = lambda: None,
    ) -> None:
        self._compiler = ShapeCompiler(reshape, lock, executor, background or executor, clock)
        self._dynamic = dynamic
        self._blocking = blocking
        self._bound = bound
        self._clock = clock
        self._seen = ShapeStatistics() if seen is None else seen
        self._reshaped = reshaped
        self._evicted = evicted
        self._dynamic_suffices: ExpiringByShape[bool] = ExpiringByShape(clock)
        self._failed: ExpiringByShape[Exception] = ExpiringByShape(clock)
        self._entries: OrderedDict[ShapeKey, Entry[CompiledT]] = OrderedDict()
        self._on_trial: OrderedDict[ShapeKey, Entry[CompiledT]] = OrderedDict()
        self._compiling: dict[ShapeKey, Entry[CompiledT]] = {}
        self.demand = Demand(promote_after, compiles_per_minute, clock)
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: ShapeKey) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[ShapeKey]:
        return iter(self._entries)

    @property
    def compile_s(self) -> float:
        """How long a request waits for a compilation: 0 where the dynamic one answers it."""
        if self._dynamic is not None and not self._blocking:
            return 0.0
        return self.counters.compile_seconds / max(1, self.counters.compiles)

    @property
    def compiling_s(self) -> float:
        """For how long a compilation has been in progress; 0 if none is."""
        return self._compiler.compiling_s

    def statistics(self) -> dict[str, Any]:
        return {
            **asdict(self.counters),
            "compiled_shapes": len(self._entries),
            "max_compiled_shapes": self._bound,
            "compiling": len(self._compiling),
        }

    @property
    def bounds(self) -> CacheBounds:
        return CacheBounds(self._bound, self.demand.promote_after)

    def state(self, key: ShapeKey) -> tuple[State, str]:
        """How the shape would be served now, and if its own compilation failed, why."""
        if key in self._entries:
            return "static", ""
        if key in self._compiling:
            return "compiling", ""
        if key in self._on_trial:
            return "on_trial", ""
        if (error := self._failed.get(key)) is not None:
            return "failed", str(error)
        if self._dynamic is None or self._blocking:
            return "not_compiled", ""
        return ("dynamic_suffices" if self.suffices(key) else "dynamic"), ""

    @asynccontextmanager
    async def use(
        self,
        key: ShapeKey,
        requests: int = 1,
        *,
        static: bool = False,
        reason: Reason = "new_shape",
    ) -> AsyncIterator[CompiledT]:
        """A compilation that can run `key`, held for as long as the context lasts.

        A known shape gets its own; another gets the dynamic one, or waits for its own where
        there is none, the model is `blocking` or `static` asks for it, for this `reason`. Raises
        what reshaping or compiling raised for this key, now or a while ago.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self.counters.hits += requests
            self.demand.asked(key, requests)
            self._entries.move_to_end(key)
        elif self._dynamic is None or self._blocking or static:
            if (error := self._failed.get(key)) is not None:
                raise copy.copy(error)
            if key in self._on_trial:
                self.keep(key)
            known = self._entries.get(key) or self._compiling.get(key)
            entry = known or self._start(key, reason)
        else:
            self.counters.served_dynamic += requests
            self._note(key, requests)
            yield self._dynamic
            return
        async with entry.held() as compiled:
            yield compiled

    def set_bounds(self, bound: int, promote_after: int, compiles_per_minute: int) -> None:
        """Changes the bounds. Compilations beyond a lower one go, oldest first; those in use serve
        whoever has them to the end."""
        self._bound = bound
        self.demand.promote_after = promote_after
        self.demand.compiles_per_minute = compiles_per_minute
        while self._taken > bound:
            self._evict()

    def hottest(self, count: int) -> list[ShapeKey]:
        """The compiled shapes that are asked for most, hottest first."""
        return self.demand.hottest(self._entries, count)

    async def close(self) -> None:
        """Waits for the compilation that is under way; those that wait are cancelled."""
        for task in (tasks := [entry.compilation for entry in self._compiling.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._compiling.clear()

    def release(self) -> None:
        """Drops all compilations and what makes them.

        The owner owns this too: the circle would stay alive until a garbage collection.
        """
        self._entries.clear()
        self._on_trial.clear()
        self._dynamic = None
        self._compiler.release()
        self._reshaped = self._evicted = _released

    # What answers, and what may not --------------------------------------------------------------

    def on_trial(self, key: ShapeKey) -> CompiledT | None:
        """The compilation that was made for the shape and has yet to show that it is worth it."""
        entry = self._on_trial.get(key)
        return None if entry is None else entry.compilation.result()

    def unchecked(self, key: ShapeKey) -> CompiledT | None:
        """The compilation that answers the shape, where it was compared with none."""
        entry = self._entries.get(key)
        if entry is None or entry.checked or not entry.compilation.done():
            return None
        return entry.compilation.result()

    def keep(self, key: ShapeKey, *, checked: bool = False) -> None:
        """Of what is on trial: from now on it answers. Of what answers: it was compared."""
        if (entry := self._on_trial.pop(key, None)) is not None:
            self._entries[key] = entry
            self.demand.promoted(in_vain=False)
            self._seen.compiled(key, entry.took_s, kept=True)
            self._reshaped(Reshape(key, "promotion", "compiled", entry.took_s))
        if key in self._entries:
            self._entries[key].checked |= checked

    def discard(self, key: ShapeKey, suffices_s: float = timing.DYNAMIC_SUFFICES_S) -> None:
        """The dynamic compilation answers the shape for so long, whatever was made for it."""
        self._entries.pop(key, None)
        self._dynamic_suffices.put(key, True, suffices_s)
        if (entry := self._on_trial.pop(key, None)) is not None:
            self.counters.not_worth_it += 1
            self.demand.promoted(in_vain=True)
            self._seen.compiled(key, entry.took_s, kept=False)
            self._reshaped(Reshape(key, "promotion", "discarded", entry.took_s))

    def replace(self, key: ShapeKey, compiled: CompiledT) -> None:
        """Another compilation answers the shape, if it still has one; it was compared."""
        if (entry := self._entries.get(key)) is not None:
            task = asyncio.get_running_loop().create_task(_value(compiled))
            self._entries[key] = Entry(task, checked=True, took_s=entry.took_s)

    def answer_with(self, dynamic: CompiledT) -> None:
        """Another compilation than before answers all shapes that have none of their own."""
        self._dynamic = dynamic

    def block(self) -> None:
        """The dynamic compilation answers nothing any more: each shape waits for its own."""
        self._blocking = True

    @property
    def answers_dynamically(self) -> bool:
        return self._dynamic is not None and not self._blocking

    def suffices(self, key: ShapeKey) -> bool:
        """Whether the dynamic compilation was found to be as fast, not long ago."""
        return self._dynamic_suffices.get(key) is not None

    async def beside(self, work: Callable[[], T]) -> T:
        """Reshapes and compiles what is not for the cache, in the background under the lock."""
        return await self._compiler.beside(work)

    # Compiling -----------------------------------------------------------------------------------

    def _note(self, key: ShapeKey, requests: int) -> None:
        """Counts requests for a shape without a compilation, and promotes it when it pays.

        With an open batch a compilation of its own is none: it was never faster (0.97 to 1.19 of
        the dynamic one's time).
        """
        interest = self.demand.asked(key, requests)
        known = key in self._compiling or key in self._on_trial or self._failed.get(key)
        if not self.demand.promotes(interest) or known or self.suffices(key) or is_open(key):
            return
        full = self._taken + len(self._compiling) >= self._bound
        if full and not self._worth_a_place(interest):
            return
        if self.demand.afford(promotion=True):
            self._start(key, "promotion")

    @property
    def _taken(self) -> int:
        return len(self._entries) + len(self._on_trial)

    def _worth_a_place(self, interest: float) -> bool:
        """Whether a shape is asked for so much more than the one that would be pushed out.

        One at a time: together, several would push out more than they were compared with.
        """
        if self._compiling:
            return False
        return interest > 2 * self.demand.of(next(iter(self._on_trial or self._entries)))

    def _start(self, key: ShapeKey, reason: Reason) -> Entry[CompiledT]:
        task = asyncio.get_running_loop().create_task(self._compile(key, reason))
        # Looked at here: nobody may wait for a background compilation.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        entry = self._compiling[key] = Entry(task)
        return entry

    async def _compile(self, key: ShapeKey, reason: Reason) -> CompiledT:
        # Until the shape is among the entries, further requests find it in `_compiling`.
        promotion = reason == "promotion"
        try:
            made = await self._compiler.compile(key, self._make_room, background=promotion)
        finally:
            entry = self._compiling.pop(key)
        self.counters.compile_seconds += made.took_s
        if made.error is not None:
            self._remember_failure(key, made.error)
            self._reshaped(Reshape(key, reason, "failed", made.took_s, made.error))
            raise made.error
        assert made.compiled is not None
        self.counters.compiles += 1
        entry.took_s = made.took_s
        if promotion and not entry.users:
            self._on_trial[key] = entry
        else:
            self._entries[key] = entry
            self._seen.compiled(key, made.took_s, kept=True)
            self._reshaped(Reshape(key, reason, "compiled", made.took_s))
        return made.compiled

    async def _make_room(self) -> None:
        while self._taken >= self._bound:
            oldest = self._evict()
            if oldest.users:
                await oldest.unused.wait()

    def _evict(self) -> Entry[CompiledT]:
        """Takes out the one that was not used for longest, first of those that answer nothing."""
        if self._on_trial:
            key = next(iter(self._on_trial))
            oldest = self._on_trial[key]
            self.discard(key, 0.0)
            return oldest
        key, oldest = self._entries.popitem(last=False)
        self.counters.evictions += 1
        self._seen.evicted(key)
        self._evicted()
        return oldest

    def _remember_failure(self, key: ShapeKey, error: Exception) -> None:
        self.counters.compile_failures += 1
        self._seen.compile_failed(key)
        # A copy has no traceback, which would keep the tensors of the request alive.
        self._failed.put(key, copy.copy(error), timing.REMEMBER_FAILURE_S)


def is_open(key: ShapeKey) -> bool:
    """Whether it is the key of any number of rows."""
    return any(-1 in shape for shape in key)


async def _value(value: T) -> T:
    return value


def _released(*arguments: Any) -> None:
    raise RuntimeError("its version is unloaded")
