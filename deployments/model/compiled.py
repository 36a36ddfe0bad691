"""The compiled shapes of one model: hit, compile once, promote, evict.

Knows nothing of OpenVINO: what a compilation is and how to make one is handed in.
"""

import asyncio
import copy
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Generic, TypeVar

from deployments.inference import ShapeKey
from deployments.model.execution import to_the_end
from deployments.model.interest import Interest
from deployments.model.reshapes import Reason, Reshape
from deployments.model.shape_statistics import ShapeStatistics
from deployments.shape_records import CacheBounds, State

CompiledT = TypeVar("CompiledT")
T = TypeVar("T")

_REMEMBER_FAILURE_S: Final = 300.0
_REMEMBERED_KEYS: Final = 4096
_DYNAMIC_SUFFICES_S: Final = 600.0


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
class _Entry(Generic[CompiledT]):
    """A static compilation, done or under way, and how many use it or wait for it."""

    compilation: "asyncio.Task[CompiledT]"
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class CompiledShapes(Generic[CompiledT]):
    """A bounded LRU cache of static compilations beside an optional dynamic one.

    `reshape` runs in `executor`, one at a time, under `lock`, which the deployment owns; it
    returns what compiles the shape, which runs there too. Shapes that are compiled never touch
    the lock. There are never more than `bound` static compilations alive: one that is in use is
    waited for before its place is taken. A shape that cannot be reshaped to takes no place.

    `pays` is asked, in the executor too, whether a compilation made in the background is worth its
    place beside the dynamic one; if not it is thrown away, unless somebody waits for it.

    `reshaped` is told of every reshape, `evicted` of every compilation that is pushed out.
    """

    def __init__(
        self,
        reshape: Callable[[ShapeKey], Callable[[], CompiledT]],
        dynamic: CompiledT | None,
        *,
        lock: asyncio.Lock,
        executor: Executor,
        bound: int,
        blocking: bool,
        promote_after: int,
        compiles_per_minute: int,
        pays: Callable[[ShapeKey, CompiledT], bool] = lambda key, compiled: True,
        clock: Callable[[], float] = time.monotonic,
        seen: ShapeStatistics | None = None,
        reshaped: Callable[[Reshape], None] = lambda reshape: None,
        evicted: Callable[[], None] = lambda: None,
    ) -> None:
        self._reshape = reshape
        self._dynamic = dynamic
        self._blocking = blocking
        self._lock = lock
        self._executor = executor
        self._bound = bound
        self._promote_after = promote_after
        self._compiles_per_minute = compiles_per_minute
        self._pays = pays
        self._clock = clock
        self._seen = ShapeStatistics() if seen is None else seen
        self._reshaped = reshaped
        self._evicted = evicted
        self._dynamic_suffices: OrderedDict[ShapeKey, float] = OrderedDict()
        self._entries: OrderedDict[ShapeKey, _Entry[CompiledT]] = OrderedDict()
        self._compiling: dict[ShapeKey, _Entry[CompiledT]] = {}
        self._since: float | None = None
        self._failed: OrderedDict[ShapeKey, tuple[Exception, float]] = OrderedDict()
        self._interest: OrderedDict[ShapeKey, Interest] = OrderedDict()
        self._background_compiles: deque[float] = deque()
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
        """For how long a compilation has been under way; 0 if none is."""
        return 0.0 if self._since is None else self._clock() - self._since

    def statistics(self) -> dict[str, Any]:
        return {
            **asdict(self.counters),
            "compiled_shapes": len(self._entries),
            "max_compiled_shapes": self._bound,
            "compiling": len(self._compiling),
        }

    @property
    def bounds(self) -> CacheBounds:
        return CacheBounds(self._bound, self._promote_after)

    def state(self, key: ShapeKey) -> tuple[State, str]:
        """How the shape would be served now, and if its own compilation failed, why."""
        if key in self._entries:
            return "static", ""
        if key in self._compiling:
            return "compiling", ""
        if (error := self._failure(key)) is not None:
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
            self._interested(key).add(requests, self._clock())
            self._entries.move_to_end(key)
        elif self._dynamic is None or self._blocking or static:
            if (error := self._failure(key)) is not None:
                raise copy.copy(error)
            entry = self._compiling.get(key) or self._start(key, reason)
        else:
            self.counters.served_dynamic += requests
            self._note(key, requests)
            yield self._dynamic
            return
        # Who waits counts as a user: else the place could be taken before they had their turn.
        entry.users += 1
        entry.unused.clear()
        try:
            # The compilation belongs to everybody who waits for it: one who leaves does not end it.
            yield await asyncio.shield(entry.compilation)
        finally:
            entry.users -= 1
            if not entry.users:
                entry.unused.set()

    def set_bounds(self, bound: int, promote_after: int, compiles_per_minute: int) -> None:
        """Changes the bounds. Compilations beyond a lower one go, oldest first; those in use serve
        whoever has them to the end."""
        self._bound = bound
        self._promote_after = promote_after
        self._compiles_per_minute = compiles_per_minute
        while len(self._entries) > bound:
            self._evict()

    def hot(self, count: int) -> list[ShapeKey]:
        """The compiled shapes that are asked for most, hottest first."""
        now = self._clock()
        interest = {key: self._interest.get(key, Interest()).value(now) for key in self._entries}
        return heapq.nlargest(count, interest, key=interest.__getitem__)

    async def close(self) -> None:
        """Waits for the compilation that is under way; those that wait are cancelled."""
        for task in (tasks := [entry.compilation for entry in self._compiling.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._compiling.clear()

    def let_go(self) -> None:
        """Of all compilations, and of who makes them: whoever made this has it, and would never
        be freed without the garbage collector."""
        self._entries.clear()
        self._dynamic = None
        self._reshape = _nobody
        self._pays = self._reshaped = self._evicted = _nobody

    def _note(self, key: ShapeKey, requests: int) -> None:
        """Counts requests for a shape without a compilation, and promotes it when it pays."""
        now = self._clock()
        interest = self._interested(key).add(requests, now)
        # Above one less: of requests that came one after the other, a little is forgotten already.
        enough = interest > self._promote_after - 1
        if not enough or key in self._compiling or self._failure(key) or self.suffices(key):
            return
        full = len(self._entries) + len(self._compiling) >= self._bound
        if full and not self._worth_a_place(interest, now):
            return
        if self.afford_compile():
            self._start(key, "promotion")

    def _worth_a_place(self, interest: float, now: float) -> bool:
        """Whether a shape is asked for so much more than the one that would be pushed out.

        One at a time: together, several would push out more than they were compared with.
        """
        if self._compiling:
            return False
        victim = self._interest.get(next(iter(self._entries)), Interest())
        return interest > 2 * victim.value(now)

    def _interested(self, key: ShapeKey) -> Interest:
        interest = self._interest.setdefault(key, Interest())
        self._interest.move_to_end(key)
        if len(self._interest) > _REMEMBERED_KEYS:
            self._interest.popitem(last=False)
        return interest

    def afford_compile(self) -> bool:
        """Takes a compilation off this minute's budget, False where it is used up."""
        now = self._clock()
        while self._background_compiles and self._background_compiles[0] < now - 60.0:
            self._background_compiles.popleft()
        if len(self._background_compiles) >= self._compiles_per_minute:
            return False
        self._background_compiles.append(now)
        return True

    def refund_compile(self) -> None:
        """Gives back what `afford_compile` took for a compilation that was not made."""
        if self._background_compiles:
            self._background_compiles.pop()

    def _failure(self, key: ShapeKey) -> Exception | None:
        error, until = self._failed.get(key, (None, 0.0))
        if error is not None and self._clock() >= until:
            del self._failed[key]
            return None
        return error

    def suffices(self, key: ShapeKey) -> bool:
        """Whether the dynamic compilation was found to be as fast, not long ago."""
        until = self._dynamic_suffices.get(key, 0.0)
        return self._clock() < until

    def _start(self, key: ShapeKey, reason: Reason) -> _Entry[CompiledT]:
        task = asyncio.get_running_loop().create_task(self._compile(key, reason))
        # Looked at here: nobody may wait for a background compilation.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        entry = self._compiling[key] = _Entry(task)
        return entry

    async def _compile(self, key: ShapeKey, reason: Reason) -> CompiledT:
        # Nobody else compiles this shape meanwhile: until it stands among the entries, whoever
        # asks for it finds it in `_compiling`.
        async with self._lock:
            try:
                started = self._since = self._clock()
                try:
                    compile_it = await self._in_thread(lambda: self._reshape(key))
                    await self._make_room()
                    compiled = await self._in_thread(compile_it)
                finally:
                    took_s = self._clock() - started
                    self.counters.compile_seconds += took_s
                background = reason == "promotion"
                pays = not background or await self._in_thread(lambda: self._pays(key, compiled))
            except Exception as error:
                self._remember_failure(key, error)
                self._reshaped(Reshape(key, reason, "failed", took_s, error))
                raise
            finally:
                self._since = None
                entry = self._compiling.pop(key)
            self.counters.compiles += 1
            kept = pays or entry.users > 0
            self._seen.compiled(key, took_s, kept=kept)
            if kept:
                self._entries[key] = entry
            else:
                self._keep_dynamic(key)
            self._reshaped(Reshape(key, reason, "compiled" if kept else "discarded", took_s))
            return compiled

    def _keep_dynamic(self, key: ShapeKey) -> None:
        self.counters.not_worth_it += 1
        self._dynamic_suffices[key] = self._clock() + _DYNAMIC_SUFFICES_S
        if len(self._dynamic_suffices) > _REMEMBERED_KEYS:
            self._dynamic_suffices.popitem(last=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_the_end(asyncio.get_running_loop().run_in_executor(self._executor, work))

    async def _make_room(self) -> None:
        while len(self._entries) >= self._bound:
            oldest = self._evict()
            if oldest.users:
                await oldest.unused.wait()

    def _evict(self) -> _Entry[CompiledT]:
        """Takes out the one that was not used for longest."""
        key, oldest = self._entries.popitem(last=False)
        self.counters.evictions += 1
        self._seen.evicted(key)
        self._evicted()
        return oldest

    def _remember_failure(self, key: ShapeKey, error: Exception) -> None:
        self.counters.compile_failures += 1
        self._seen.compile_failed(key)
        # A copy has no traceback, which would keep the tensors of the request alive.
        self._failed[key] = copy.copy(error), self._clock() + _REMEMBER_FAILURE_S
        if len(self._failed) > _REMEMBERED_KEYS:
            self._failed.popitem(last=False)


def _nobody(*arguments: Any) -> Any:
    raise RuntimeError("its version was let go of")
