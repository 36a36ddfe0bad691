"""Runs the inferences of a batch on one compilation, stacked or side by side."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from deployments.errors import DeadlineExceeded
from deployments.inference import ShapeKey, is_open
from deployments.model.cache.shape_statistics import ShapeStatistics
from deployments.model.execution.executor import Execution, Kind
from deployments.model.execution.inference_times import InferenceTimes
from deployments.model.execution.requests import (
    Answer,
    BatchMember,
    copied,
    note_inference,
    rows_of,
    wanted,
)
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.tuning.stacking import RowsLost, scatter, stack
from deployments.model.versions.loaded import LoadedModel
from deployments.model.versions.promotion import PromotionTrials
from deployments.observability.logs import log
from deployments.tensors import Tensor

_REMEMBERED_KEYS: Final = 4096

_Took: TypeAlias = tuple[int, int, int]  # nanoseconds of an inference, its rows and requests


class BatchRunner:
    """Runs batches of one version.

    It records inference times in `times` and `seen`, and gives `trials` the inputs it needs to
    compare compilations.
    """

    def __init__(
        self,
        version: LoadedModel,
        execution: Execution,
        trials: PromotionTrials,
        seen: ShapeStatistics,
    ) -> None:
        self._version = version
        self._execution = execution
        self._trials = trials
        self._seen = seen
        self._unstackable: set[ShapeKey] = set()
        self.times = InferenceTimes()
        self.stacked_batches = 0

    async def answers(
        self, compiled: CompiledShape, key: ShapeKey, members: Sequence[BatchMember]
    ) -> Sequence[Answer | CannotInfer]:
        """The answers in the order of the members, CannotInfer for those that failed."""
        if self._stacks(key, members):
            try:
                return await self._run_stacked(compiled, key, members)
            except RowsLost as error:
                text = "%s: requests of this shape will no longer be stacked"
                log(logging.WARNING, text, error, model=self._version.info.name)
                remember(self._unstackable, key)
            except CannotInfer as error:
                text = "a stacked batch failed, running its requests separately: %s"
                log(logging.WARNING, text, error, model=self._version.info.name)
        if len(members) == 1:
            return [await self._run_alone(compiled, key, members[0])]
        return await asyncio.gather(*(self._run_alone(compiled, key, work) for work in members))

    def _stacks(self, key: ShapeKey, members: Sequence[BatchMember]) -> bool:
        rows = rows_of(members)
        return (
            len(members) > 1
            and self._version.stacks(key)
            and key not in self._unstackable
            and all(work.rows > 0 for work in members)
            and is_open(key)
            and all(spec.dims[0].accepts(rows) for spec in self._version.info.inputs)
        )

    async def _run_stacked(
        self, compiled: CompiledShape, key: ShapeKey, members: Sequence[BatchMember]
    ) -> list[Answer]:
        assert self._version.stacking is not None
        rules = self._version.stacking.rules
        compares = self._trials.needs_inputs(key)
        inputs: list[Tensor] = []

        def work() -> tuple[list[Answer], _Took | None]:
            now = time.monotonic()
            early = [self._answer_early(member, now) for member in members]
            in_time = [m for m, answer in zip(members, early, strict=True) if answer is None]
            if compares and in_time:
                inputs.extend(copied(in_time[0].tensors))
            parts: Iterator[list[Tensor]] = iter(())
            took = None
            if in_time:
                stacked = stack([member.tensors for member in in_time])
                outputs, ns = compiled.timed(stacked)
                took = ns, rows_of(in_time), len(in_time)
                note_inference(in_time, time.monotonic(), ns)
                parts = iter(scatter(outputs, rules, [member.rows for member in in_time]))
            answers = [
                self._checked(member, wanted(next(parts), member.outputs))
                if answer is None
                else answer
                for member, answer in zip(members, early, strict=True)
            ]
            return answers, took

        self.stacked_batches += 1
        deadline = min(work.deadline for work in members)
        shapes = [(rows_of(members), *shape[1:]) for shape in members[0].shapes]
        kind = _kind(compiled, shapes)
        answers, took = await self._execution.run(deadline, work, kind)
        self._note_time(compiled, key, took, kind)
        if inputs:
            self._trials.compare(key, inputs, members[0].timeout_s)
        return answers

    async def _run_alone(
        self, compiled: CompiledShape, key: ShapeKey, member: BatchMember
    ) -> Answer | CannotInfer:
        compares = self._trials.needs_inputs(key)
        inputs: list[Tensor] = []

        def work() -> tuple[Answer, _Took | None]:
            if (answer := self._answer_early(member, time.monotonic())) is not None:
                return answer, None
            outputs, ns = compiled.timed(member.tensors, member.outputs, member.space)
            note_inference([member], time.monotonic(), ns)
            if compares:
                inputs.extend(copied(member.tensors))
            return self._checked(member, outputs), (ns, member.rows, 1)

        kind = _kind(compiled, member.shapes)
        try:
            answer, took = await self._execution.run(member.deadline, work, kind)
        except CannotInfer as error:
            return error
        self._note_time(compiled, key, took, kind)
        if inputs:
            self._trials.compare(key, inputs, member.timeout_s)
        return answer

    def _note_time(
        self, compiled: CompiledShape, key: ShapeKey, took: "_Took | None", kind: Kind
    ) -> None:
        if took is not None:
            ns, rows, requests = took
            self.times.note(1e-9 * ns / requests, built=kind is Kind.BUILDS)
            self._seen.inferred(key, ns, rows, static=compiled is not self._version.dynamic)

    def _answer_early(self, member: BatchMember, now: float) -> Answer | None:
        """The answer of a request that needs no inference, else None."""
        if now >= member.deadline:
            return DeadlineExceeded(self._version.info.name, member.timeout_s)
        numbers = self._version.numbers
        answer = numbers.instead(member.tensors) if numbers else None
        return wanted(answer, member.outputs) if isinstance(answer, list) else answer

    def _checked(self, member: BatchMember, outputs: list[Tensor]) -> Answer:
        numbers = self._version.numbers
        return numbers.checked(member.tensors, outputs) if numbers else outputs


def _kind(compiled: CompiledShape, shapes: Sequence[tuple[int, ...]]) -> Kind:
    return Kind.USUAL if compiled.knows(tuple(shapes)) else Kind.BUILDS


def remember(keys: set[ShapeKey], key: ShapeKey) -> None:
    """Adds the key, and clears a full set first so that many keys cannot fill memory."""
    if len(keys) >= _REMEMBERED_KEYS:
        keys.clear()
    keys.add(key)
