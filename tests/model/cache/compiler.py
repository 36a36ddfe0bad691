"""A compiler that a test can pause, and caches of compiled shapes that use it."""

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from deployments.inference import ShapeKey
from deployments.model.cache.compiled_shapes import CompiledShapes

PATIENCE_S = 10


class Refused(Exception):
    """Raised when a test makes the compiler refuse a shape."""


class Compilation:
    def __init__(self, key: ShapeKey) -> None:
        self.key = key


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Compiler:
    """Counts its compilations; `hold` pauses it at a shape."""

    def __init__(self) -> None:
        self.reshaped: Counter[ShapeKey] = Counter()
        self.compiled: list[ShapeKey] = []
        self.refuses_to_reshape: set[ShapeKey] = set()
        self.refuses_to_compile: set[ShapeKey] = set()
        self.most_alive = 0
        self.most_at_once = 0
        self._at_once = 0
        self._held: dict[ShapeKey, threading.Event] = {}
        self._began: dict[ShapeKey, threading.Event] = {}
        self._alive: weakref.WeakSet[Compilation] = weakref.WeakSet()
        self._mutex = threading.Lock()

    def hold(self, key: ShapeKey) -> Callable[[], None]:
        """Pauses at a shape until the test calls the returned function."""
        self._began[key] = threading.Event()
        held = self._held[key] = threading.Event()
        return held.set

    async def began(self, key: ShapeKey) -> None:
        assert await asyncio.to_thread(self._began[key].wait, PATIENCE_S)

    def reshape(self, key: ShapeKey) -> Callable[[], Compilation]:
        self.reshaped[key] += 1
        if key in self.refuses_to_reshape:
            raise Refused(f"no {key}")
        return lambda: self._compile(key)

    def _compile(self, key: ShapeKey) -> Compilation:
        with self._mutex:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.most_alive = max(self.most_alive, 1 + len(self._alive))
        try:
            if key in self._held:
                self._began[key].set()
                assert self._held[key].wait(PATIENCE_S)
            if key in self.refuses_to_compile:
                raise Refused(f"no {key}")
            self.compiled.append(key)
            compilation = Compilation(key)
            self._alive.add(compilation)
            return compilation
        finally:
            with self._mutex:
                self._at_once -= 1


class AtOnce(Executor):
    """Runs work at once, in the calling thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


class Shapes(CompiledShapes[Compilation]):
    """A cache with its own thread, and with default settings.

    With `one_paid`, an earlier promotion was kept.
    """

    def __init__(self, compiler: Compiler, *, dynamic: bool = False, **settings: Any) -> None:
        self.compiler = compiler
        self.clock = Clock()
        self.own_lock: asyncio.Lock = settings.setdefault("lock", asyncio.Lock())
        self.threads: Executor = settings.pop("threads", None) or ThreadPoolExecutor(1)
        self.any_shape = Compilation(()) if dynamic else None
        self.pays: Callable[[ShapeKey], bool] = settings.pop("pays", lambda key: True)
        one_paid = settings.pop("one_paid", True)
        defaults = {"bound": 4, "blocking": False, "promote_after": 3, "compiles_per_minute": 60}
        super().__init__(
            compiler.reshape,
            self.any_shape,
            executor=self.threads,
            clock=self.clock,
            **{**defaults, **settings},
        )
        if one_paid:
            self.demand.promotion_ended(discarded=False)

    async def get(self, key: ShapeKey, requests: int = 1, *, static: bool = False) -> Compilation:
        """Uses the compilation and releases it."""
        async with self.use(key, requests, static=static) as compilation:
            return compilation

    async def held(self, stack: AsyncExitStack, key: ShapeKey) -> None:
        """Uses the compilation until the stack is closed."""
        await stack.enter_async_context(self.use(key))

    async def settled(self) -> None:
        """Waits for the compilations, and ends the trials."""
        for _ in range(50):  # a compilation takes three turns, and others wait for it
            await asyncio.get_running_loop().run_in_executor(self.threads, int)
            await asyncio.sleep(0)
            self.judge()

    def judge(self) -> None:
        for key in list(self._on_trial):
            if self.pays(key):
                self.keep(key, checked=True)
            else:
                self.discard(key)


def key(size: int) -> ShapeKey:
    return ((1, size),)


A, B, C, D = map(key, range(4))
