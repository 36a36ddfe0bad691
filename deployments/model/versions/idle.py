"""A version that is let go of while nobody asks for it, and loaded again for the next request."""

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
_HOT: Final = 64


class IdleVersion:
    """Looks like the version that it has, or would have. Its counters begin anew with each load."""

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
        self._hot: list[InputShapes] = []
        self._asleep = RoutingStats()
        self._failure, self._failed_until = "", 0.0
        self._running = 0
        self._closed = False
        self._turn = asyncio.Lock()
        self._letting_go: asyncio.Task[None] | None = None
        self._wait()

    def configure(self, settings: ModelSettings) -> None:
        self._settings = settings
        if self._serving is not None:
            self._serving.configure(settings)

    async def run(self, key: ShapeKey, members: Sequence[BatchMember]) -> list[Answer]:
        """As the version does; the first after a while waits until it is loaded again."""
        self._running += 1
        self._stop_waiting()
        try:
            serving = await self._awake()
            return await serving.run(key, members)
        except LoadFailed as error:
            return [ModelUnavailable(self.info.name, str(error)) for _ in members]
        finally:
            self._running -= 1
            if not self._running:
                self._wait()

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
        """Asleep it can be asked all the same, which is dear: it has to be loaded."""
        return self._asleep if self._serving is None else self._serving.routing()

    def hot(self, count: int) -> list[InputShapes]:
        return self._hot[:count] if self._serving is None else self._serving.hot(count)

    async def close(self) -> None:
        self._closed = True
        self._stop_waiting()
        async with self._turn:
            serving, self._serving = self._serving, None
            if serving is not None:
                await serving.close()

    async def _awake(self) -> VersionServer:
        async with self._turn:
            if self._closed:
                raise LoadFailed("its version is being unloaded")
            if self._serving is None:
                logger.info("model '%s' is asked for again", self.info.name)
                self._serving = await self._loaded_again()
            return self._serving

    async def _loaded_again(self) -> VersionServer:
        """Raises LoadFailed, for a while without trying."""
        if time.monotonic() < self._failed_until:
            raise LoadFailed(self._failure)
        try:
            serving = await self._load()
            if serving.info.revision != self.info.revision:
                await serving.close()
                raise LoadFailed("its files are not those of this version any more")
        except LoadFailed as error:
            self._failure, self._failed_until = str(error), time.monotonic() + timing.RETRY_IDLE_S
            raise
        if self._settings is not None:
            serving.configure(self._settings)
        return serving

    def _wait(self) -> None:
        self._stop_waiting()
        if self._closed:
            return
        self._letting_go = asyncio.get_running_loop().create_task(self._let_go())

    def _stop_waiting(self) -> None:
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None

    async def _let_go(self) -> None:
        await asyncio.sleep(self._after_s)
        # From here on it cannot be cancelled: whoever asks meanwhile waits for its turn.
        self._letting_go = None
        async with self._turn:
            if self._running or self._serving is None:
                return
            self._hot = self._serving.hot(_HOT)
            slots = self._serving.routing().slots
            self._asleep = RoutingStats(slots=slots, compile_cost=MOST_COST, ready=True)
            serving, self._serving = self._serving, None
            await serving.close()
        del serving
        await asyncio.to_thread(_give_back_memory)
        logger.info("model '%s' is let go of after %g s idle", self.info.name, self._after_s)


def _give_back_memory() -> None:
    """What OpenVINO has freed stays with the process otherwise. For glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
