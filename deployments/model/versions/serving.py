"""Answers the batches of a loaded version."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from deployments.errors import (
    InferenceFailed,
    ModelUnavailable,
    ServingError,
    ShapeNotSupported,
)
from deployments.inference import InputShapes, ModelInfo, ShapeKey, computed_in, shape_number
from deployments.model.cache.compiled_shapes import CompiledShapes
from deployments.model.cache.reshape_events import ReshapeReport
from deployments.model.cache.shape_statistics import ShapeStatistics
from deployments.model.execution.compilers import Compilers
from deployments.model.execution.executor import SharedExecutions
from deployments.model.execution.requests import (
    Answer,
    BatchMember,
    rows_of,
)
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import CannotReshape
from deployments.model.policy.shapes import any_rows
from deployments.model.tuning.random_inputs import random_rows
from deployments.model.versions.batch_runner import BatchRunner, remember
from deployments.model.versions.loaded import LoadedModel
from deployments.model.versions.promotion import PromotionTrials
from deployments.observability.logs import log
from deployments.observability.metrics import DYNAMIC_REQUESTS, SILENT, Telemetry
from deployments.observability.shape_records import ShapesReport
from deployments.settings import ModelSettings
from deployments.transport.routing_stats import RoutingStats

_MOST_KERNELS_REPORTED: Final = 256
"""The most shapes with kernels that a replica reports to the request routers."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    bound: int
    blocking: bool
    promote_after: int
    compiles_per_minute: int


class VersionServer:
    """Runs batches of one version. Reshapes under the deployment's lock, in a worker thread."""

    def __init__(
        self,
        version: LoadedModel,
        settings: CacheSettings,
        lock: asyncio.Lock,
        executions: SharedExecutions | None = None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self.version = version
        self._telemetry = telemetry
        report = ReshapeReport(version.info, telemetry)
        self._executions = executions or SharedExecutions()
        self._execution = self._executions.take(version.slots, version.streams)
        self._compilers = Compilers()
        self.batches = 0
        self.requests = 0
        self.rows = 0
        self._seen = ShapeStatistics()
        self._failing: set[ShapeKey] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._closing = False
        self._shapes: CompiledShapes[CompiledShape] = CompiledShapes(
            lambda key: version.reshape(key),
            version.dynamic,
            lock=lock,
            executor=self._compilers.foreground,
            background=self._compilers.background,
            bound=settings.bound,
            blocking=settings.blocking,
            promote_after=settings.promote_after,
            compiles_per_minute=settings.compiles_per_minute,
            seen=self._seen,
            reshaped=report.reshaped,
            evicted=report.evicted,
        )
        self._trials = PromotionTrials(version, self._shapes, self._execution, telemetry)
        self._runner = BatchRunner(version, self._execution, self._trials, self._seen)

    @property
    def remark(self) -> str:
        """A warning for the version's status, empty if there is none."""
        return self._trials.remark

    @property
    def info(self) -> ModelInfo:
        return self.version.info

    def configure(self, settings: ModelSettings) -> None:
        """Applies the bounds of the cache and the budget of compilations."""
        self._shapes.set_bounds(
            settings.max_compiled_shapes, settings.promote_after, settings.compiles_per_minute
        )

    async def warm_up(self, shapes: Sequence[Sequence[Sequence[int]]]) -> None:
        """Compiles these shapes and runs each once: the first run is slow. Raises CannotReshape."""
        specs = self.version.info.inputs
        for shape in shapes:
            key = self.version.key_of(shape)
            rows = random_rows(specs, shape, 0)
            async with self._shapes.use(key, static=True, reason="warm_up") as compiled:
                with suppress(CannotInfer):  # a failure on random data says nothing of the shape
                    await self._execution.run(0.0, partial(compiled.infer, rows))
                    await self._trials.check_at_load(key, shape)

    async def run(self, key: ShapeKey, members: Sequence[BatchMember]) -> list[Answer]:
        """The answers in the order of the members; a failure of one affects no other."""
        if self._closing:
            closed = ModelUnavailable(self.version.info.name, "its version is being unloaded")
            return [closed for _ in members]
        self.batches += 1
        self.requests += len(members)
        rows = rows_of(members)
        self.rows += rows
        self._running += 1
        self._idle.clear()
        try:
            return await self._by_rows(key, members)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _by_rows(self, key: ShapeKey, members: Sequence[BatchMember]) -> list[Answer]:
        """Runs the members in groups of the same compilation."""
        single = self.version.single_key(key)
        keys = [single if work.rows == 1 else key for work in members]
        groups: dict[ShapeKey, list[BatchMember]] = {}
        for own, work in zip(keys, members, strict=True):
            groups.setdefault(own, []).append(work)
        for own, group in groups.items():
            self._seen.arrived(own, len(group), rows_of(group))
        if len(groups) == 1:
            return await self._run(keys[0], members, static=False)
        runs = (self._run(own, group, static=False) for own, group in groups.items())
        answers = dict(zip(groups, map(iter, await asyncio.gather(*runs)), strict=True))
        return [next(answers[own]) for own in keys]

    async def _run(
        self, key: ShapeKey, members: Sequence[BatchMember], *, static: bool
    ) -> list[Answer]:
        known = key in self._shapes
        try:
            use = self._shapes.use(
                key, len(members), static=static, reason="fallback" if static else "new_shape"
            )
            async with use as compiled:
                answers = await self._runner.answers(compiled, key, members)
        except CannotReshape as error:
            return [self._not_supported(key, str(error)) for _ in members]
        pairs = list(zip(members, answers, strict=True))
        failed = [work for work, answer in pairs if isinstance(answer, CannotInfer)]
        dynamic = compiled is self.version.dynamic
        answered = [work for work, answer in pairs if isinstance(answer, list)]
        if dynamic:
            self._telemetry.count(DYNAMIC_REQUESTS, self.info.name, by=len(members))
            self._seen.answered_dynamic(key, len(answered))
        else:
            self._seen.answered_static(key, len(answered), rows_of(answered), waited=not known)
        if not (failed and dynamic and key not in self._failing and self._shapes.demand.spend()):
            return [self._failed(a, w) if isinstance(a, CannotInfer) else a for w, a in pairs]
        # A shape that fails in the dynamic compilation may run in a static one.
        again = await self._run(key, failed, static=True)
        if all(isinstance(answer, ShapeNotSupported) for answer in again):
            self._shapes.demand.refund()  # reshaping failed, which takes little time
        elif all(isinstance(answer, InferenceFailed) for answer in again):
            remember(self._failing, key)
        rest = iter(again)
        return [next(rest) if isinstance(a, CannotInfer) else a for a in answers]

    def statistics(self) -> dict[str, Any]:
        cache = self.version.kernel_cache
        return {
            **self._shapes.statistics(),
            "batches": self.batches,
            "stacked_batches": self._runner.stacked_batches,
            "requests": self.requests,
            "rows": self.rows,
            "slots": self._execution.count,
            "waiting": self._execution.waiting,
            "dynamic": self.version.dynamic is not None,
            "kernel_cache": cache and asdict(cache),
            "shapes_differing": len(self._trials.differing),
            "stacking": self.version.stacking is not None,
            "stacking_reason": self.version.stacking_reason,
            "inference_precision": self.version.computes_in,
            "computed_in": computed_in(self.info),
        }

    def routing(self) -> RoutingStats:
        version, streams = self.version, self.version.streams
        keys = set(self._shapes)
        if version.dynamic is not None and version.kernel_cache is not None:
            built = version.dynamic.built(_MOST_KERNELS_REPORTED)
            keys.update(version.key_of(shapes) for shapes in built)
            cost = self._runner.times.building_cost(streams)
        else:
            cost = self._runner.times.compile_cost(self._shapes.compile_s, streams)
        numbers = (shape_number(self.info.revision, any_rows(self.info.inputs, k)) for k in keys)
        return RoutingStats(frozenset(numbers), version.slots, cost, ready=True)

    @property
    def compiled_shapes(self) -> int:
        return len(self._shapes)

    @property
    def compiling_s(self) -> float:
        """The seconds since the running compilation began, 0 if none runs."""
        return self._shapes.compiling_s

    def hot_shapes(self, count: int) -> list[InputShapes]:
        """The compiled shapes with the highest demand, hottest first."""
        return [self.version.shapes_of(key) for key in self._shapes.hottest(count)]

    async def shapes(self) -> ShapesReport:
        """The report on all requested shapes. Never waits for the reshape lock."""
        state, differing = self._shapes.state, self._trials.differing
        return await self._seen.report(self._shapes.bounds, state, differing)

    async def close(self) -> None:
        """Refuses new batches, and returns after those in flight."""
        if self._closing:
            return
        self._closing = True
        if self._running:
            await self._idle.wait()
        await self._trials.close()
        await self._shapes.close()
        await asyncio.to_thread(self._executions.give_back, self._execution)
        await asyncio.to_thread(self._compilers.close)
        self._shapes.release()

    def _not_supported(self, key: ShapeKey, why: str) -> ServingError:
        return ShapeNotSupported(self.version.info.name, self.info.spelled(key), why)

    def _failed(self, error: CannotInfer, member: BatchMember) -> ServingError:
        why, about = error.__cause__ or error, [member.request_id]
        log(logging.ERROR, "inference failed: %s", why, about=about, model=self.info.name)
        shapes = tuple(tensor.shape for tensor in member.tensors)
        if any(0 in shape for shape in shapes):
            return self._not_supported(shapes, str(error))
        return InferenceFailed(self.version.info.name, str(error))
