"""A loaded version at work: batches in, answers out."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from deployments.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ServingError,
    ShapeNotSupported,
    dims,
)
from deployments.inference import ShapeKey
from deployments.model.compiled import CompiledShapes
from deployments.model.execution import Execution
from deployments.model.runtime import CannotReshape, CompiledShape, where_it_failed
from deployments.model.stacking import RowsLost, scatter, stack
from deployments.model.version import Version, trial_key
from deployments.tensors import Tensor

logger: Final = logging.getLogger("ray.serve")

Answer: TypeAlias = list[Tensor] | ServingError


@dataclass(frozen=True, slots=True)
class Work:
    """One request of a batch; `deadline` is a time of the monotonic clock."""

    tensors: Sequence[Tensor]
    rows: int
    outputs: tuple[str, ...]
    deadline: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CacheSettings:
    bound: int
    blocking: bool
    promote_after: int
    compiles_per_minute: int


class ServingVersion:
    """Runs batches of one version. Reshapes under the deployment's lock, in a worker thread."""

    def __init__(self, version: Version, settings: CacheSettings, lock: asyncio.Lock) -> None:
        self.version = version
        self._execution = Execution(version.slots)
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.batches = 0
        self.stacked_batches = 0
        self.requests = 0
        self.rows = 0
        self._shapes: CompiledShapes[CompiledShape] = CompiledShapes(
            self._compile,
            version.dynamic,
            lock=lock,
            executor=self._compiler,
            bound=settings.bound,
            blocking=settings.blocking,
            promote_after=settings.promote_after,
            compiles_per_minute=settings.compiles_per_minute,
        )

    async def warm_up(self, shapes: Sequence[Sequence[Sequence[int]]]) -> None:
        """Compiles these shapes. Raises CannotReshape."""
        for shape in shapes:
            async with self._shapes.use(trial_key(self.version.info.inputs, shape), static=True):
                pass

    async def run(self, key: ShapeKey, members: Sequence[Work]) -> list[Answer]:
        """The answers in the order of the members; what fails for one fails for it alone."""
        self.batches += 1
        self.requests += len(members)
        self.rows += sum(work.rows for work in members)
        try:
            return await self._run(key, members, static=False)
        except CannotReshape as error:
            return [self._not_supported(key, str(error)) for _ in members]

    async def _run(self, key: ShapeKey, members: Sequence[Work], *, static: bool) -> list[Answer]:
        async with self._shapes.use(key, len(members), static=static) as compiled:
            if self._stacks(key, members):
                try:
                    return await self._together(compiled, members)
                except (RuntimeError, RowsLost):
                    logger.exception("stacked batch failed, running its %d members", len(members))
            answers = await asyncio.gather(*(self._alone(compiled, work) for work in members))
            own_shape = compiled is not self.version.dynamic
        failed = [i for i, answer in enumerate(answers) if isinstance(answer, RuntimeError)]
        if not failed:
            return [answer for answer in answers if not isinstance(answer, RuntimeError)]
        if own_shape:
            return [self._failed(a) if isinstance(a, RuntimeError) else a for a in answers]
        # A shape may be beyond a dynamic compilation and still be fine for one of its own.
        retried = await self._run(key, [members[i] for i in failed], static=True)
        again = dict(zip(failed, retried, strict=True))
        return [
            again[i] if isinstance(answer, RuntimeError) else answer
            for i, answer in enumerate(answers)
        ]

    def _stacks(self, key: ShapeKey, members: Sequence[Work]) -> bool:
        stacking = self.version.stacking
        return (
            stacking is not None
            and len(members) > 1
            and stacking.pays_for(key)
            and all(work.rows > 0 for work in members)
            and any(-1 in shape for shape in key)
        )

    async def _together(self, compiled: CompiledShape, members: Sequence[Work]) -> list[Answer]:
        assert self.version.stacking is not None
        rules = self.version.stacking.rules

        def work() -> list[list[Tensor]]:
            outputs = compiled.infer(stack([member.tensors for member in members]))
            return scatter(outputs, rules, [member.rows for member in members])

        self.stacked_batches += 1
        parts = await self._execution.run(min(work.deadline for work in members), work)
        return [_wanted(part, member.outputs) for part, member in zip(parts, members, strict=True)]

    async def _alone(self, compiled: CompiledShape, member: Work) -> Answer | RuntimeError:
        def work() -> list[Tensor] | None:
            if time.monotonic() >= member.deadline:
                return None
            return compiled.infer(member.tensors, member.outputs)

        try:
            outputs = await self._execution.run(member.deadline, work)
        except RuntimeError as error:
            return error
        if outputs is None:
            return DeadlineExceeded(self.version.info.name, member.timeout_s)
        return outputs

    def statistics(self) -> dict[str, Any]:
        return {
            **self._shapes.statistics(),
            "batches": self.batches,
            "stacked_batches": self.stacked_batches,
            "requests": self.requests,
            "rows": self.rows,
            "slots": self._execution.slots.count,
            "waiting": self._execution.slots.waiting,
            "dynamic": self.version.dynamic is not None,
            "stacking": self.version.stacking is not None,
        }

    async def close(self) -> None:
        """Ends after the work that is under way."""
        await self._shapes.close()
        await asyncio.to_thread(self._execution.close)
        await asyncio.to_thread(self._compiler.shutdown)

    def _compile(self, key: ShapeKey) -> CompiledShape:
        started = time.perf_counter()
        shapes = self._written(key)
        try:
            compiled = self.version.compile(key)
        except CannotReshape as error:
            logger.warning("reshape to %s failed: %s", shapes, error.__cause__ or error)
            raise
        logger.info("compiled for %s in %.0f ms", shapes, 1e3 * (time.perf_counter() - started))
        return compiled

    def _written(self, key: ShapeKey) -> str:
        names = [spec.name for spec in self.version.info.inputs]
        return ", ".join(f"{n} {dims(shape)}" for n, shape in zip(names, key, strict=True))

    def _not_supported(self, key: ShapeKey, why: str) -> ServingError:
        return ShapeNotSupported(self.version.info.name, self._written(key), why)

    def _failed(self, error: RuntimeError) -> ServingError:
        logger.error("inference failed: %s", error)
        why = f"OpenVINO reports an error{where_it_failed(error)}"
        return InferenceFailed(self.version.info.name, why)


def _wanted(outputs: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in names] if names else outputs
