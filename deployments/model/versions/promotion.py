"""Compares compilations with each other before or after they answer requests.

OpenVINO compiles some models wrongly for some static shapes, and no test data finds them all. So
this compares compilations on the inputs that clients sent. A promoted shape's compilation is
compared before it answers anything, any other once, after its first answer. If two differ, a third
one decides.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Final
from weakref import WeakKeyDictionary

from deployments.inference import ShapeKey
from deployments.model.cache.compiled_shapes import CompiledShapes
from deployments.model.execution.executor import Execution, Kind
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import CannotReshape
from deployments.model.tuning.agreement import (
    Difference,
    difference,
    input_statistics,
    tolerance,
)
from deployments.model.tuning.random_inputs import Values, random_rows
from deployments.model.versions.loaded import LoadedModel
from deployments.observability.logs import log
from deployments.observability.metrics import SHAPES_DIFFERING, Telemetry
from deployments.observability.shape_records import Differing
from deployments.tensors import Tensor

logger: Final = logging.getLogger("ray.serve")

_PAIRS: Final = 5
_WINS_BELOW: Final = 0.9
_LOSES_FROM: Final = 1.0
_FEWEST_PAIRS: Final = 3
_FOREVER_S: Final = float("inf")
_REMEMBERED: Final = 1024
_STATIC_IS_WRONG: Final = (
    "the static compilation differs from the dynamic one and one without snippets: "
    "the dynamic one answers"
)
_DYNAMIC_IS_WRONG: Final = (
    "the dynamic compilation differs from a static one and one without optimisations: "
    "each shape of the model waits for its own compilation"
)
_NONE_AGREES: Final = (
    "the static, the dynamic and an unoptimised compilation differ from each other: "
    "the dynamic one answers, which may be wrong"
)
_REPLACED: Final = (
    "the static compilation differs from one without optimisations, which answers from now on"
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The outputs of two compilations for the same inputs, and the ratio of their times."""

    one: list[Tensor]
    other: list[Tensor]
    ratio: float
    difference: Difference


@dataclass(slots=True)
class _Trial:
    ratios: list[float] = field(default_factory=list)

    def verdict(self, ratio: float) -> bool | None:
        """Whether a static compilation is clearly faster; None if more pairs are needed.

        It has to be a tenth faster by the median of five pairs. The first pair does not count,
        because the caches are cold. After three pairs that were no faster it has lost.
        """
        self.ratios.append(ratio)
        counted = self.ratios[1:]
        if len(counted) >= _FEWEST_PAIRS and min(counted) >= _LOSES_FROM:
            return False
        return median(counted) < _WINS_BELOW if len(counted) >= _PAIRS else None


class PromotionTrials:
    """Compares the compilations of one version, one pair of inferences at a time.

    A comparison waits in the queue like a request. Belongs to the event loop.
    """

    def __init__(
        self,
        version: LoadedModel,
        shapes: CompiledShapes[CompiledShape],
        execution: Execution,
        telemetry: Telemetry,
    ) -> None:
        self._version = version
        self._shapes = shapes
        self._execution = execution
        self._telemetry = telemetry
        self._tolerance = tolerance(version.computes_in)
        # A trial ends with its compilation, also when that is evicted.
        self._trials: WeakKeyDictionary[CompiledShape, _Trial] = WeakKeyDictionary()
        self._task: asyncio.Task[None] | None = None
        self._swapped = False
        self._all_unchecked = version.dynamic is not None and version.dynamic.is_static
        self.differing: dict[ShapeKey, Differing] = {}

    def needs_inputs(self, key: ShapeKey) -> bool:
        """Whether to copy a request's inputs, and to call `compare` once it is answered."""
        if self._task is not None:
            return False
        if self._shapes.answers_dynamically and self._shapes.on_trial(key) is not None:
            return True
        return self._all_unchecked or self._shapes.unchecked(key) is not None

    def compare(self, key: ShapeKey, inputs: Sequence[Tensor], timeout_s: float) -> None:
        """Starts a comparison on `inputs`, which must not change from now on.

        Its deadline is that of a request that arrives now.
        """
        if self._task is None:
            deadline = time.monotonic() + timeout_s
            self._task = asyncio.get_running_loop().create_task(
                self._compared(key, inputs, deadline)
            )

    async def check_at_load(self, key: ShapeKey, shapes: Sequence[Sequence[int]]) -> None:
        """Checks a warm-up shape on random inputs; the first request's inputs are compared later.

        Raises CannotInfer, CannotReshape.
        """
        async for inputs in self._random(shapes):
            static = self._shapes.unchecked(key)
            if static is not None and self._shapes.answers_dynamically:
                await self._check(key, static, inputs, 0.0, checked=False)

    async def close(self) -> None:
        """Cancels the comparison after its running inference or compilation."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def remark(self) -> str:
        """The warning about wrongly compiled shapes for the model's status, empty if none is."""
        return "; ".join(
            f"at {self._version.info.spelled(key)} {found.verdict}"
            for key, found in list(self.differing.items())[:3]
        ) + (f" and {len(self.differing) - 3} more shapes" if len(self.differing) > 3 else "")

    async def _compared(self, key: ShapeKey, inputs: Sequence[Tensor], deadline: float) -> None:
        try:
            await self._compare(key, inputs, deadline)
        except (CannotInfer, CannotReshape) as error:
            why = error.__cause__ or error
            log(logging.WARNING, "a comparison failed: %s", why, model=self._version.info.name)
            self._shapes.keep(key, checked=True) if key in self._shapes else self._shapes.discard(
                key
            )
            self._all_unchecked = False
        except Exception:
            logger.exception("a comparison of compilations failed")
        finally:
            self._task = None

    async def _compare(self, key: ShapeKey, inputs: Sequence[Tensor], deadline: float) -> None:
        dynamic, run = self._version.dynamic, partial(self._pair, inputs, deadline)
        if (static := self._shapes.on_trial(key)) is not None:
            assert dynamic is not None
            pair = await run(static, dynamic)
            if pair.difference.largest > self._tolerance:
                await self._decide(key, inputs, pair, deadline)
            elif self._note(key, pair.ratio):
                await self._check_at_random(key, static, dynamic, deadline)
        elif self._all_unchecked:
            assert dynamic is not None
            self._all_unchecked = False
            reference = await self._reference(key)
            pair = await run(dynamic, reference)
            if pair.difference.largest > self._tolerance:
                self._version.dynamic = reference
                self._shapes.set_dynamic(reference)
                self._report(key, inputs, pair.difference, _REPLACED)
        elif (static := self._shapes.unchecked(key)) is not None:
            await self._check(key, static, inputs, deadline)

    async def _check(
        self,
        key: ShapeKey,
        static: CompiledShape,
        inputs: Sequence[Tensor],
        deadline: float,
        *,
        checked: bool = True,
    ) -> None:
        """Compares a static compilation that answers with the dynamic one or the reference."""
        dynamic = self._version.dynamic if self._shapes.answers_dynamically else None
        try:
            other = dynamic or await self._reference(key)
            pair = await self._pair(inputs, deadline, static, other)
        except CannotInfer:
            if dynamic is None:
                raise
            # The static compilation may exist because the dynamic one fails at this shape.
            dynamic, other = None, await self._reference(key)
            pair = await self._pair(inputs, deadline, static, other)
        if pair.difference.largest <= self._tolerance:
            self._shapes.keep(key, checked=checked)
        elif dynamic is not None:
            await self._decide(key, inputs, pair, deadline, clients=checked)
        else:
            self._shapes.replace(key, other)
            self._report(key, inputs, pair.difference, _REPLACED)

    async def _decide(
        self,
        key: ShapeKey,
        inputs: Sequence[Tensor],
        pair: _Pair,
        deadline: float,
        *,
        clients: bool = True,
    ) -> None:
        """Decides by a reference between a static and a dynamic compilation that differ.

        If no two of the three agree, only inputs of `clients` count: random ones may lie on the
        edge between two classes.
        """
        reference = await self._reference(key)
        infer = partial(reference.infer, inputs)
        third = await self._execution.run(deadline, infer, Kind.COMPARES)
        static_is_right = self._differ(pair.one, third).largest <= self._tolerance
        dynamic_is_right = self._differ(pair.other, third).largest <= self._tolerance
        no_verdict = not (clients or static_is_right or dynamic_is_right)
        if no_verdict or (static_is_right and dynamic_is_right):  # they round to opposite sides
            tried = clients or self._shapes.on_trial(key) is not None
            if self._note(key, pair.ratio):
                self._shapes.keep(key, checked=tried)
        elif static_is_right:
            self._shapes.stop_dynamic()
            self._shapes.keep(key, checked=True)
            self._report(key, inputs, pair.difference, _DYNAMIC_IS_WRONG)
        else:
            self._shapes.discard(key, _FOREVER_S)
            verdict = _STATIC_IS_WRONG if dynamic_is_right else _NONE_AGREES
            self._report(key, inputs, pair.difference, verdict)

    def _note(self, key: ShapeKey, ratio: float) -> bool:
        """Adds a ratio; returns whether the trial is won. Discards the compilation if it lost."""
        static = self._shapes.on_trial(key)
        verdict = True if static is None else self._trial_of(static).verdict(ratio)
        if verdict is False:
            self._shapes.discard(key)
        return bool(verdict)

    async def _check_at_random(
        self, key: ShapeKey, static: CompiledShape, dynamic: CompiledShape, deadline: float
    ) -> None:
        """Keeps a static compilation if it agrees with the dynamic one on random inputs too.

        A fault may show at some values only.
        """
        async for inputs in self._random(self._version.shapes_of(key)):
            try:
                pair = await self._pair(inputs, deadline, static, dynamic)
            except CannotInfer:
                continue  # a failure on random data says nothing of the compilation
            if pair.difference.largest > self._tolerance:
                await self._decide(key, inputs, pair, deadline, clients=False)
                return
        self._shapes.keep(key, checked=True)

    async def _random(self, shapes: Sequence[Sequence[int]]) -> AsyncIterator[list[Tensor]]:
        """Random inputs of three magnitudes, made in a thread because they may be large."""
        specs = self._version.info.inputs
        for values in (Values(), Values(deviation=1.0), Values(deviation=0.1)):
            yield await asyncio.to_thread(random_rows, specs, shapes, 0, values)

    def _trial_of(self, static: CompiledShape) -> _Trial:
        return self._trials.setdefault(static, _Trial())

    async def _reference(self, key: ShapeKey) -> CompiledShape:
        return await self._shapes.compile_uncached(lambda: self._version.reference(key))

    async def _pair(
        self,
        inputs: Sequence[Tensor],
        deadline: float,
        one: CompiledShape,
        other: CompiledShape,
    ) -> _Pair:
        self._swapped = swapped = not self._swapped

        def work() -> _Pair:
            if swapped:
                other_outputs, other_ns = other.timed(inputs)
            one_outputs, one_ns = one.timed(inputs)
            if not swapped:
                other_outputs, other_ns = other.timed(inputs)
            found = self._differ(one_outputs, other_outputs)
            return _Pair(one_outputs, other_outputs, one_ns / max(1, other_ns), found)

        return await self._execution.run(deadline, work, Kind.COMPARES)

    def _differ(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> Difference:
        return difference(one, other, self._version.detections)

    def _report(
        self, key: ShapeKey, inputs: Sequence[Tensor], found: Difference, verdict: str
    ) -> None:
        if len(self.differing) < _REMEMBERED:
            report = Differing(found.largest, found.output, verdict, input_statistics(inputs))
            self.differing[key] = report
        name = self._version.info.name
        self._telemetry.count(SHAPES_DIFFERING, name)
        log(
            logging.WARNING,
            "model '%s' at %s: compilations differ by %.3g of the largest value of output '%s': %s",
            name,
            self._version.info.spelled(key),
            found.largest,
            found.output,
            verdict,
            model=name,
            shape=self._version.info.spelled(key),
        )
