"""A loaded version at work: batches in, answers out."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from deployments.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    ServingError,
    ShapeNotSupported,
    dims,
)
from deployments.inference import ModelInfo, ShapeKey
from deployments.model.compiled import CompiledShapes
from deployments.model.execution import SharedExecutions
from deployments.model.hot_shapes import Shapes
from deployments.model.runtime import CannotInfer, CannotReshape, CompiledShape, Space, nowhere
from deployments.model.shape_statistics import ShapeStatistics
from deployments.model.shapes import trial_key
from deployments.model.stacking import RowsLost, random_rows, scatter, stack
from deployments.model.version import Version
from deployments.settings import ModelSettings
from deployments.shape_records import ShapesReport
from deployments.tensors import Tensor

logger: Final = logging.getLogger("ray.serve")

_REMEMBERED_KEYS: Final = 4096

Answer: TypeAlias = list[Tensor] | ServingError
_Took: TypeAlias = tuple[int, int]  # nanoseconds of an inference, and its rows


@dataclass(frozen=True, slots=True)
class Work:
    """One request of a batch; `deadline` is a time of the monotonic clock.

    Its outputs go to `space`, if it has any.
    """

    tensors: Sequence[Tensor]
    rows: int
    outputs: tuple[str, ...]
    deadline: float
    timeout_s: float
    space: Space = nowhere


@dataclass(frozen=True, slots=True)
class CacheSettings:
    bound: int
    blocking: bool
    promote_after: int
    compiles_per_minute: int


class ServingVersion:
    """Runs batches of one version. Reshapes under the deployment's lock, in a worker thread."""

    def __init__(
        self,
        version: Version,
        settings: CacheSettings,
        lock: asyncio.Lock,
        executions: SharedExecutions | None = None,
    ) -> None:
        self.version = version
        self._executions = executions or SharedExecutions()
        self._execution = self._executions.take(version.slots, version.streams)
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.batches = 0
        self.stacked_batches = 0
        self.requests = 0
        self.rows = 0
        self._seen = ShapeStatistics()
        self._failing: set[ShapeKey] = set()
        self._unstackable: set[ShapeKey] = set()
        self._running = 0
        self._quiet = asyncio.Event()
        self._closing = False
        self._shapes: CompiledShapes[CompiledShape] = CompiledShapes(
            self._reshape,
            version.dynamic,
            lock=lock,
            executor=self._compiler,
            bound=settings.bound,
            blocking=settings.blocking,
            promote_after=settings.promote_after,
            compiles_per_minute=settings.compiles_per_minute,
            pays=self._pays,
            seen=self._seen,
        )

    @property
    def info(self) -> ModelInfo:
        return self.version.info

    def configure(self, settings: ModelSettings) -> None:
        """Takes over the bounds of the cache and of its compilations."""
        self._shapes.set_bounds(
            settings.max_compiled_shapes, settings.promote_after, settings.compiles_per_minute
        )

    async def warm_up(self, shapes: Sequence[Sequence[Sequence[int]]]) -> None:
        """Compiles these shapes and runs each once, which is slow too. Raises CannotReshape."""
        specs = self.version.info.inputs
        for shape in shapes:
            async with self._shapes.use(trial_key(specs, shape), static=True) as compiled:
                with suppress(CannotInfer):  # what random data leads to is no verdict
                    work = partial(compiled.infer, random_rows(specs, shape, 0))
                    await self._execution.run(0.0, work)

    async def run(self, key: ShapeKey, members: Sequence[Work]) -> list[Answer]:
        """The answers in the order of the members; what fails for one fails for it alone."""
        if self._closing:
            closed = ModelUnavailable(self.version.info.name, "its version is being unloaded")
            return [closed for _ in members]
        self.batches += 1
        self.requests += len(members)
        rows = _rows(members)
        self.rows += rows
        self._seen.arrived(key, len(members), rows)
        self._running += 1
        self._quiet.clear()
        try:
            return await self._run(key, members, static=False)
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()

    async def _run(self, key: ShapeKey, members: Sequence[Work], *, static: bool) -> list[Answer]:
        known = key in self._shapes
        try:
            async with self._shapes.use(key, len(members), static=static) as compiled:
                answers = await self._answers(compiled, key, members)
        except CannotReshape as error:
            return [self._not_supported(key, str(error)) for _ in members]
        pairs = list(zip(members, answers, strict=True))
        failed = [work for work, answer in pairs if isinstance(answer, CannotInfer)]
        dynamic = compiled is self.version.dynamic
        answered = [work for work, answer in pairs if isinstance(answer, list)]
        if dynamic:
            self._seen.answered_dynamic(key, len(answered))
        else:
            self._seen.answered_static(key, len(answered), _rows(answered), waited=not known)
        if not (failed and dynamic and key not in self._failing and self._shapes.afford_compile()):
            return [self._failed(a, w) if isinstance(a, CannotInfer) else a for w, a in pairs]
        # A shape may be beyond a dynamic compilation and still be fine for one of its own.
        again = await self._run(key, failed, static=True)
        if all(isinstance(answer, ShapeNotSupported) for answer in again):
            self._shapes.refund_compile()  # reshaping failed, which is quick
        elif all(isinstance(answer, InferenceFailed) for answer in again):
            _remember(self._failing, key)
        rest = iter(again)
        return [next(rest) if isinstance(a, CannotInfer) else a for a in answers]

    async def _answers(
        self, compiled: CompiledShape, key: ShapeKey, members: Sequence[Work]
    ) -> Sequence[Answer | CannotInfer]:
        costly = compiled is self.version.dynamic and not self._shapes.suffices(key)
        if self._stacks(key, members):
            try:
                return await self._together(compiled, key, members, costly)
            except RowsLost as error:
                logger.warning("%s: requests of this shape are not stacked any more", error)
                _remember(self._unstackable, key)
            except CannotInfer as error:
                logger.warning("a stacked batch failed, its members run alone: %s", error)
        if len(members) == 1:
            return [await self._alone(compiled, key, members[0], costly)]
        return await asyncio.gather(*(self._alone(compiled, key, work, costly) for work in members))

    def _stacks(self, key: ShapeKey, members: Sequence[Work]) -> bool:
        stacking = self.version.stacking
        rows = _rows(members)
        return (
            stacking is not None
            and len(members) > 1
            and stacking.pays_for(key)
            and key not in self._unstackable
            and all(work.rows > 0 for work in members)
            and any(-1 in shape for shape in key)
            and all(spec.dims[0].accepts(rows) for spec in self.version.info.inputs)
        )

    async def _together(
        self, compiled: CompiledShape, key: ShapeKey, members: Sequence[Work], costly: bool
    ) -> list[Answer]:
        assert self.version.stacking is not None
        rules = self.version.stacking.rules

        def work() -> tuple[list[Answer], _Took | None]:
            now = time.monotonic()
            in_time = [member for member in members if now < member.deadline]
            parts: Iterator[list[Tensor]] = iter(())
            took = None
            if in_time:
                stacked = stack([member.tensors for member in in_time])
                outputs, ns = compiled.timed(stacked)
                took = ns, _rows(in_time)
                parts = iter(scatter(outputs, rules, [member.rows for member in in_time]))
            answers = [
                _wanted(next(parts), member.outputs)
                if now < member.deadline
                else self._late(member)
                for member in members
            ]
            return answers, took

        self.stacked_batches += 1
        deadline = min(work.deadline for work in members)
        answers, took = await self._execution.run(deadline, work, costly=costly)
        self._note_time(compiled, key, took)
        return answers

    async def _alone(
        self, compiled: CompiledShape, key: ShapeKey, member: Work, costly: bool
    ) -> Answer | CannotInfer:
        def work() -> tuple[Answer, _Took | None]:
            if time.monotonic() >= member.deadline:
                return self._late(member), None
            outputs, ns = compiled.timed(member.tensors, member.outputs, member.space)
            return outputs, (ns, member.rows)

        try:
            answer, took = await self._execution.run(member.deadline, work, costly=costly)
        except CannotInfer as error:
            return error
        self._note_time(compiled, key, took)
        return answer

    def _note_time(self, compiled: CompiledShape, key: ShapeKey, took: "_Took | None") -> None:
        if took is not None:
            ns, rows = took
            self._seen.inferred(key, ns, rows, static=compiled is not self.version.dynamic)

    def statistics(self) -> dict[str, Any]:
        return {
            **self._shapes.statistics(),
            "batches": self.batches,
            "stacked_batches": self.stacked_batches,
            "requests": self.requests,
            "rows": self.rows,
            "slots": self._execution.count,
            "waiting": self._execution.waiting,
            "dynamic": self.version.dynamic is not None,
            "stacking": self.version.stacking is not None,
        }

    def hot(self, count: int) -> list[Shapes]:
        """The compiled shapes that are asked for most, hottest first."""
        return [self.version.shapes_of(key) for key in self._shapes.hot(count)]

    async def shapes(self) -> ShapesReport:
        """What is known of each shape that was asked for. Never waits for the reshape lock."""
        return await self._seen.report(self._shapes.bounds, self._shapes.state)

    async def close(self) -> None:
        """Takes no more batches and ends after those that are under way."""
        if self._closing:
            return
        self._closing = True
        if self._running:
            await self._quiet.wait()
        await self._shapes.close()
        await asyncio.to_thread(self._executions.give_back, self._execution)
        await asyncio.to_thread(self._compiler.shutdown)
        self._shapes.let_go()

    def _reshape(self, key: ShapeKey) -> Callable[[], CompiledShape]:
        started = time.perf_counter()
        shapes = self._written(key)
        with self._failure_logged(shapes):
            compile_it = self.version.reshape(key)
        reshaped = time.perf_counter()

        def work() -> CompiledShape:
            compiling = time.perf_counter()
            with self._failure_logged(shapes):
                compiled = compile_it()
            took_s = reshaped - started + time.perf_counter() - compiling
            logger.info("compiled for %s in %.0f ms", shapes, 1e3 * took_s)
            return compiled

        return work

    def _pays(self, key: ShapeKey, compiled: CompiledShape) -> bool:
        pays = self.version.static_pays(key, compiled)
        if not pays:
            logger.info("%s stays with the compilation for all shapes", self._written(key))
        return pays

    @contextmanager
    def _failure_logged(self, shapes: str) -> Iterator[None]:
        try:
            yield
        except CannotReshape as error:
            logger.warning("reshape to %s failed: %s", shapes, error.__cause__ or error)
            raise

    def _written(self, key: ShapeKey) -> str:
        names = [spec.name for spec in self.version.info.inputs]
        return ", ".join(f"{n} {dims(shape)}" for n, shape in zip(names, key, strict=True))

    def _not_supported(self, key: ShapeKey, why: str) -> ServingError:
        return ShapeNotSupported(self.version.info.name, self._written(key), why)

    def _late(self, member: Work) -> ServingError:
        return DeadlineExceeded(self.version.info.name, member.timeout_s)

    def _failed(self, error: CannotInfer, member: Work) -> ServingError:
        logger.error("inference failed: %s", error.__cause__ or error)
        shapes = tuple(tensor.shape for tensor in member.tensors)
        if any(0 in shape for shape in shapes):
            return self._not_supported(shapes, str(error))
        return InferenceFailed(self.version.info.name, str(error))


def _remember(keys: set[ShapeKey], key: ShapeKey) -> None:
    """Adds the key; so that a flood of keys cannot fill memory, a full set starts anew."""
    if len(keys) >= _REMEMBERED_KEYS:
        keys.clear()
    keys.add(key)


def _rows(members: Sequence[Work]) -> int:
    return sum(work.rows for work in members)


def _wanted(outputs: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in names] if names else outputs
