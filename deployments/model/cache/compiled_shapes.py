"""The cache of one model's compilations: it compiles each shape once, promotes and evicts.

Knows no OpenVINO: the caller passes the function that compiles, of any result type.
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
from deployments.inference import ShapeKey, is_open
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
    """A bounded LRU cache of static compilations, with an optional dynamic one.

    A `ShapeCompiler` makes them; requests for compiled shapes never touch its lock. At most `bound`
    static compilations are alive: a new one waits until the users of the evicted one have finished.

    A background compilation is on trial, and answers nothing, until the owner keeps or discards it.
    The cache calls `reshaped` for every reshape when its outcome is known, and `evicted` for every
    eviction.
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
        """The mean seconds that a request waits for a compilation, 0 if the dynamic one answers."""
        if self._dynamic is not None and not self._blocking:
            return 0.0
        return self.counters.compile_seconds / max(1, self.counters.compiles)

    @property
    def compiling_s(self) -> float:
        """The seconds since the running compilation began, 0 if none runs."""
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
        """The shape's present state, and the error if its static compilation failed."""
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
        return ("dynamic_suffices" if self.dynamic_suffices(key) else "dynamic"), ""

    @asynccontextmanager
    async def use(
        self,
        key: ShapeKey,
        requests: int = 1,
        *,
        static: bool = False,
        reason: Reason = "new_shape",
    ) -> AsyncIterator[CompiledT]:
        """Provides a compilation that can run `key`, and holds it during the context.

        A compiled shape gets its static compilation, another one the dynamic. If there is no
        dynamic one, or the model is `blocking`, or with `static`, the caller waits for a static
        one, made for this `reason`. Raises the error of reshaping or compiling this key, also that
        of a recent failure.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self.counters.hits += requests
            self.demand.add(key, requests)
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
            self._count_dynamic(key, requests)
            yield self._dynamic
            return
        async with entry.held() as compiled:
            yield compiled

    def set_bounds(self, bound: int, promote_after: int, compiles_per_minute: int) -> None:
        """Changes the bounds, and evicts the least recently used compilations beyond a lower one.

        Requests that use an evicted compilation finish on it.
        """
        self._bound = bound
        self.demand.promote_after = promote_after
        self.demand.compiles_per_minute = compiles_per_minute
        while self._alive > bound:
            self._evict()

    def hottest(self, count: int) -> list[ShapeKey]:
        """The compiled shapes with the highest demand, hottest first."""
        return self.demand.hottest(self._entries, count)

    async def close(self) -> None:
        """Cancels the waiting compilations and waits for the running one."""
        for task in (tasks := [entry.compilation for entry in self._compiling.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._compiling.clear()

    def release(self) -> None:
        """Drops all compilations and the functions of the owner.

        Those refer back to the owner: the cycle would stay alive until a garbage collection.
        """
        self._entries.clear()
        self._on_trial.clear()
        self._dynamic = None
        self._compiler.release()
        self._reshaped = self._evicted = _released

    # Trials and checks ---------------------------------------------------------------------------

    def on_trial(self, key: ShapeKey) -> CompiledT | None:
        """The shape's compilation on trial, if there is one."""
        entry = self._on_trial.get(key)
        return None if entry is None else entry.compilation.result()

    def unchecked(self, key: ShapeKey) -> CompiledT | None:
        """The compilation that answers the shape, if it has not been compared with another."""
        entry = self._entries.get(key)
        if entry is None or entry.checked or not entry.compilation.done():
            return None
        return entry.compilation.result()

    def keep(self, key: ShapeKey, *, checked: bool = False) -> None:
        """Ends a trial: the compilation answers from now on. `checked` notes that it was compared.

        For a compilation that already answers, this only notes `checked`.
        """
        if (entry := self._on_trial.pop(key, None)) is not None:
            self._entries[key] = entry
            self.demand.promotion_ended(discarded=False)
            self._seen.compiled(key, entry.took_s, kept=True)
            self._reshaped(Reshape(key, "promotion", "compiled", entry.took_s))
        if key in self._entries:
            self._entries[key].checked |= checked

    def discard(self, key: ShapeKey, suffices_s: float = timing.DYNAMIC_SUFFICES_S) -> None:
        """Drops the shape's static compilation; the dynamic one answers for `suffices_s`."""
        self._entries.pop(key, None)
        self._dynamic_suffices.put(key, True, suffices_s)
        if (entry := self._on_trial.pop(key, None)) is not None:
            self.counters.not_worth_it += 1
            self.demand.promotion_ended(discarded=True)
            self._seen.compiled(key, entry.took_s, kept=False)
            self._reshaped(Reshape(key, "promotion", "discarded", entry.took_s))

    def replace(self, key: ShapeKey, compiled: CompiledT) -> None:
        """Replaces the shape's compilation, unless it was evicted, by one that was compared."""
        if (entry := self._entries.get(key)) is not None:
            self._entries[key] = entry.with_other(compiled)

    def set_dynamic(self, dynamic: CompiledT) -> None:
        """Replaces the dynamic compilation."""
        self._dynamic = dynamic

    def stop_dynamic(self) -> None:
        """Stops use of the dynamic compilation: each shape waits for its static one."""
        self._blocking = True

    @property
    def answers_dynamically(self) -> bool:
        return self._dynamic is not None and not self._blocking

    def dynamic_suffices(self, key: ShapeKey) -> bool:
        """Whether a recent trial found the dynamic compilation to be as fast."""
        return self._dynamic_suffices.get(key) is not None

    async def compile_uncached(self, work: Callable[[], T]) -> T:
        """Runs a compilation that is not for the cache, in the background under the lock."""
        return await self._compiler.compile_uncached(work)

    # Compiling -----------------------------------------------------------------------------------

    def _count_dynamic(self, key: ShapeKey, requests: int) -> None:
        """Counts requests for a shape without a compilation, and promotes it if demand is high.

        It never promotes a key with an open batch: such a compilation was never faster (0.97 to
        1.19 of the dynamic one's time).
        """
        interest = self.demand.add(key, requests)
        known = key in self._compiling or key in self._on_trial or self._failed.get(key)
        if (
            not self.demand.promotes(interest)
            or known
            or self.dynamic_suffices(key)
            or is_open(key)
        ):
            return
        full = self._alive + len(self._compiling) >= self._bound
        if full and not self._may_evict(interest):
            return
        if self.demand.spend(promotion=True):
            self._start(key, "promotion")

    @property
    def _alive(self) -> int:
        return len(self._entries) + len(self._on_trial)

    def _may_evict(self, interest: float) -> bool:
        """Whether demand for a shape is more than twice that of the one it would evict.

        Only one compilation at a time may evict: several would evict more than they were compared
        with.
        """
        if self._compiling:
            return False
        return interest > 2 * self.demand.current(next(iter(self._on_trial or self._entries)))

    def _start(self, key: ShapeKey, reason: Reason) -> Entry[CompiledT]:
        task = asyncio.get_running_loop().create_task(self._compile(key, reason))
        # Retrieves the exception, because no caller may await a background compilation.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        entry = self._compiling[key] = Entry(task)
        return entry

    async def _compile(self, key: ShapeKey, reason: Reason) -> CompiledT:
        # Requests that arrive before it is among the entries find the shape in `_compiling`.
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
        while self._alive >= self._bound:
            oldest = self._evict()
            if oldest.users:
                await oldest.unused.wait()

    def _evict(self) -> Entry[CompiledT]:
        """Evicts the oldest compilation on trial, or else the least recently used one."""
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
        # A copy has no traceback, whose frames would keep the request's tensors alive.
        self._failed.put(key, copy.copy(error), timing.REMEMBER_FAILURE_S)


def _released(*arguments: Any) -> None:
    raise RuntimeError("its version is unloaded")
