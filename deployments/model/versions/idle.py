"""Unloads a version that gets no requests, and loads it again for the next one."""

import asyncio
import ctypes
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from deployments import timing
from deployments.errors import ModelUnavailable
from deployments.inference import InputShapes, ModelInfo, ShapeKey
from deployments.model.execution.requests import Answer, BatchMember
from deployments.model.versions.lifecycle import LoadFailed
from deployments.model.versions.serving import VersionServer
from deployments.observability.shape_records import ShapesReport
from deployments.settings import ModelSettings
from deployments.transport.routing_stats import MOST_COST, RoutingStats

logger: Final = logging.getLogger("ray.serve")
_REMEMBERED_SHAPES: Final = 64


class IdleVersion:
    """A version with the interface of VersionServer, loaded or not.

    Its counters start at zero with each load.
    """

    def __init__(
        self,
        serving: VersionServer,
        load: Callable[[], Awaitable[VersionServer]],
        after_s: float,
    ) -> None:
        """`load` raises LoadFailed."""
        self.info: ModelInfo = serving.info
        self._serving: VersionServer | None = serving
        self._load = load
        self._after_s = after_s
        self._settings: ModelSettings | None = None
        self._hot_shapes: list[InputShapes] = []
        self._idle_stats = RoutingStats()
        self._failure, self._failed_until = "", 0.0
        self._running = 0
        self._closed = False
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._start_timer()

    def configure(self, settings: ModelSettings) -> None:
        self._settings = settings
        if self._serving is not None:
            self._serving.configure(settings)

    async def run(self, key: ShapeKey, members: Sequence[BatchMember]) -> list[Answer]:
        """Runs a batch. The first one after an idle period waits for the version to load."""
        self._running += 1
        self._stop_timer()
        try:
            serving = await self._loaded()
            return await serving.run(key, members)
        except LoadFailed as error:
            return [ModelUnavailable(self.info.name, str(error)) for _ in members]
        finally:
            self._running -= 1
            if not self._running:
                self._start_timer()

    def statistics(self) -> dict[str, Any]:
        if self._serving is None:
            return {"idle": True}
        return {"idle": False, **self._serving.statistics()}

    @property
    def remark(self) -> str:
        return "" if self._serving is None else self._serving.remark

    @property
    def compiled_shapes(self) -> int:
        return 0 if self._serving is None else self._serving.compiled_shapes

    @property
    def compiling_s(self) -> float:
        return 0.0 if self._serving is None else self._serving.compiling_s

    async def shapes(self) -> ShapesReport | None:
        return None if self._serving is None else await self._serving.shapes()

    def routing(self) -> RoutingStats:
        """The routing statistics. An idle version is ready too, at the cost of loading it."""
        return self._idle_stats if self._serving is None else self._serving.routing()

    def hot_shapes(self, count: int) -> list[InputShapes]:
        return (
            self._hot_shapes[:count] if self._serving is None else self._serving.hot_shapes(count)
        )

    async def close(self) -> None:
        self._closed = True
        self._stop_timer()
        async with self._lock:
            serving, self._serving = self._serving, None
            if serving is not None:
                await serving.close()

    async def _loaded(self) -> VersionServer:
        async with self._lock:
            if self._closed:
                raise LoadFailed("its version is being unloaded")
            if self._serving is None:
                logger.info("model '%s': loading it again for a request", self.info.name)
                self._serving = await self._load_again()
            return self._serving

    async def _load_again(self) -> VersionServer:
        """Loads the version. Raises LoadFailed, after a failure for a while without a retry."""
        if time.monotonic() < self._failed_until:
            raise LoadFailed(self._failure)
        try:
            serving = await self._load()
            if serving.info.revision != self.info.revision:
                await serving.close()
                raise LoadFailed("its files have changed since this version was loaded")
        except LoadFailed as error:
            self._failure, self._failed_until = str(error), time.monotonic() + timing.RETRY_IDLE_S
            raise
        if self._settings is not None:
            serving.configure(self._settings)
        return serving

    def _start_timer(self) -> None:
        self._stop_timer()
        if self._closed:
            return
        self._timer = asyncio.get_running_loop().create_task(self._unload_when_idle())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _unload_when_idle(self) -> None:
        await asyncio.sleep(self._after_s)
        # From here on nothing cancels this task: a request that arrives now waits for the lock.
        self._timer = None
        async with self._lock:
            if self._running or self._serving is None:
                return
            self._hot_shapes = self._serving.hot_shapes(_REMEMBERED_SHAPES)
            slots = self._serving.routing().slots
            self._idle_stats = RoutingStats(slots=slots, compile_cost=MOST_COST, ready=True)
            serving, self._serving = self._serving, None
            await serving.close()
        del serving
        await asyncio.to_thread(_return_memory)
        logger.info(
            "model '%s': unloaded after %g s without requests", self.info.name, self._after_s
        )


def _return_memory() -> None:
    """Returns to the system what OpenVINO has freed, which glibc would keep."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
