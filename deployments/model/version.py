"""One loaded version of a model: everything about it that does not change with traffic.

Loading is blocking and belongs into a worker thread.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import openvino as ov

from deployments.dimensions import Dim, ShapeRule
from deployments.inference import InputSpec, ModelInfo, OutputSpec, ShapeKey
from deployments.model.runtime import CannotReshape, CompiledShape, ModelInput, Runtime
from deployments.model.shapes import (
    accepted_dims,
    to_compile,
    trial_shapes,
    with_batch_axis,
)
from deployments.model.stacking import OutputRule, prove, random_rows, stack

_REQUESTS_PER_STREAM: Final = 2
_TIMED_BATCHES: Final = 8
_TIMED_ROWS: Final = 4
_STACKING_WINS_BELOW: Final = 0.9


@dataclass(frozen=True, slots=True)
class VersionSettings:
    """What of a model's settings matters when it is loaded."""

    device: str
    plugin_config: Mapping[str, Any]
    shape: ShapeRule | Mapping[str, ShapeRule]
    batch_size: int | Literal["auto"]
    background: bool
    max_batch_rows: int
    stacking: Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Stacking:
    """Stacking is proven for the model, and pays for shapes of up to `elements` a row."""

    rules: tuple[OutputRule, ...]
    elements: float

    def pays_for(self, key: ShapeKey) -> bool:
        return elements_per_row(key) <= self.elements


def elements_per_row(key: ShapeKey) -> int:
    return sum(prod(size for size in shape if size >= 0) for shape in key)


class Version:
    """A model that has been read, understood and, where it can be, compiled for any shape."""

    def __init__(
        self, name: str, number: str, source: str | Path, settings: VersionSettings
    ) -> None:
        """Raises CannotLoad, PolicyError."""
        self._runtime = Runtime(settings.device, settings.plugin_config)
        self._model = self._runtime.read(source)
        inputs = self._runtime.inputs(self._model)
        accepted = accepted_dims(inputs, settings.shape, settings.batch_size, self._reshapes)
        specs = with_batch_axis(inputs, accepted, self._reshapes)
        self._specs = specs
        self.dynamic = self._compile_dynamic() if settings.background else None
        trial = self._trial(inputs)
        self.streams = trial.streams if trial else 1
        self.slots = _REQUESTS_PER_STREAM * self.streams
        self.stacking = self._stacking(trial, settings) if trial else None
        self.info = ModelInfo(
            name, number, (number,), specs, self._output_specs(), settings.max_batch_rows
        )

    def compile(self, key: ShapeKey) -> CompiledShape:
        """Reshapes and compiles, static but for the batch dimension. Raises CannotReshape."""
        shapes = to_compile(self._specs, key)
        return self._runtime.compile(self._runtime.reshaped(self._model, shapes))

    def _reshapes(self, shapes: Sequence[Sequence[Dim | int]]) -> bool:
        try:
            self._runtime.reshaped(self._model, shapes)
        except CannotReshape:
            return False
        return True

    def _compile_dynamic(self) -> CompiledShape | None:
        """One compilation for all accepted shapes; None for models that refuse that."""
        shapes = [spec.dims for spec in self._specs]
        try:
            return self._runtime.compile(self._runtime.reshaped(self._model, shapes))
        except CannotReshape:
            return None

    def _output_specs(self) -> tuple[OutputSpec, ...]:
        """The outputs with the dimensions that follow from the accepted inputs."""
        try:
            model = self._runtime.reshaped(self._model, [spec.dims for spec in self._specs])
        except CannotReshape:
            model = self._model
        return self._runtime.outputs(model)

    def _trial(self, inputs: Sequence[ModelInput]) -> "_Trial | None":
        """A compilation that ran once, at the first of the trial shapes at which one does."""
        for shapes in trial_shapes(inputs, [spec.dims for spec in self._specs]):
            try:
                key = trial_key(self._specs, shapes)
                compiled = self.compile(key)
                compiled.infer(random_rows(self._specs, shapes, 0))
            except (CannotReshape, RuntimeError):
                continue
            return _Trial(compiled, key, shapes, self._runtime.streams(compiled))
        return None

    def _stacking(self, trial: "_Trial", settings: VersionSettings) -> Stacking | None:
        if settings.stacking == "never" or settings.max_batch_rows == 1:
            return None
        if any(spec.batch_axis is None for spec in self._specs):
            return None
        try:
            rules = prove(trial.compiled.infer, self._specs, trial.shapes, self._detections())
        except RuntimeError:
            return None
        if rules is None:
            return None
        if settings.stacking == "always":
            return Stacking(rules, float("inf"))
        measured = elements_per_row(trial.key)
        return Stacking(rules, measured) if self._stacking_wins(trial) else None

    def _detections(self) -> list[bool]:
        return [_made_by(port, "DetectionOutput") for port in self._model.outputs]

    def _stacking_wins(self, trial: "_Trial") -> bool:
        """Times the same rows stacked and side by side, as they would run under load."""
        row = random_rows(self._specs, trial.shapes, 0)
        stacked = stack([row] * _TIMED_ROWS)
        with ThreadPoolExecutor(self.slots) as threads:

            def timed(batch: Sequence[Any], count: int) -> float:
                started = time.perf_counter()
                list(threads.map(lambda _: trial.compiled.infer(batch), range(count)))
                return time.perf_counter() - started

            timed(row, self.slots)
            timed(stacked, self.slots)
            pairs = [
                (timed(stacked, _TIMED_BATCHES), timed(row, _TIMED_BATCHES * _TIMED_ROWS))
                for _ in range(3)
            ]
        together, apart = (min(times) for times in zip(*pairs, strict=True))
        return bool(together < _STACKING_WINS_BELOW * apart)


@dataclass(frozen=True, slots=True)
class _Trial:
    compiled: CompiledShape
    key: ShapeKey
    shapes: tuple[tuple[int, ...], ...]
    streams: int


def trial_key(specs: Sequence[InputSpec], shapes: Sequence[Sequence[int]]) -> ShapeKey:
    """The shape key of requests with these shapes."""
    return tuple(
        tuple(-1 if axis == spec.batch_axis else size for axis, size in enumerate(shape))
        for spec, shape in zip(specs, shapes, strict=True)
    )


def _made_by(result: ov.Output, operation: str) -> bool:
    made_by: str = result.get_node().input_value(0).get_node().get_type_name()
    return made_by == operation
