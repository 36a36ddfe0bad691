"""One loaded version of a model: the state that does not change with traffic.

Loading is blocking: do it in worker threads.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from deployments import timing
from deployments.dimensions import Dim, ShapeRule
from deployments.inference import (
    InputShapes,
    ModelInfo,
    OutputSpec,
    ShapeKey,
    elements_per_row,
    rows_of_inputs,
)
from deployments.model.graph.numbers.check import number_check_of
from deployments.model.graph.preprocessing import prepare
from deployments.model.graph.rows.outputs import NotProven
from deployments.model.graph.rows.proof import rows_kept_apart
from deployments.model.openvino.compile_cache import CompileCache
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.kernel_cache import KernelCache, sized
from deployments.model.openvino.runtime import (
    KERNEL_CACHE,
    CannotLoad,
    CannotReshape,
    Model,
    ModelInput,
    Runtime,
)
from deployments.model.policy.shapes import (
    accepted_dims,
    never_empty,
    one_row,
    scaled,
    to_compile,
    trial_key,
    trial_shapes,
    with_batch_axis,
)
from deployments.model.tuning.comparisons import stacking_wins
from deployments.model.tuning.precision import FLOAT32, MOST_COMPARED_BYTES, float32_is_quicker
from deployments.model.tuning.random_inputs import random_rows
from deployments.model.tuning.stacking import Stacking
from deployments.model.tuning.trial_runs import prove
from deployments.settings.preprocessing import Preprocessing

_REQUESTS_PER_STREAM: Final = 2
_SIZES_TRIED: Final = 3


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """The settings of a model that loading depends on."""

    device: str
    plugin_config: Mapping[str, Any]
    shape: ShapeRule | Mapping[str, ShapeRule]
    batch_size: int | Literal["auto"]
    background: bool
    max_batch_rows: int
    stacking: Literal["auto", "always", "never"]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    blobs: CompileCache | None = None
    kernel_cache_bytes: int = 384 << 20


class LoadedModel:
    """A model that was read, analysed and, if possible, compiled for all shapes."""

    def __init__(self, name: str, number: str, source: str | Path, settings: LoadSettings) -> None:
        """Raises CannotLoad, PolicyError."""
        self._runtime = Runtime(settings.device, settings.plugin_config, settings.blobs)
        prepared = prepare(self._runtime.read(source), settings.preprocessing)
        self._model = prepared.model
        inputs = prepared.described(self._runtime.inputs(self._model))
        accepted = accepted_dims(inputs, settings.shape, settings.batch_size, self._reshapes)
        if self._runtime.mixes_up_empty(self._model):
            accepted = never_empty(accepted)
        self._specs = with_batch_axis(inputs, accepted, self._reshapes)
        self._precision: Mapping[str, Any] = {}
        trial = self._trial_with_or_without_batch(inputs)
        if trial is not None and (precision := self._precision_for(trial)):
            self._precision = precision
            trial = replace(trial, compiled=self.reshape(trial.key)())
        self.kernel_cache: KernelCache | None = None
        self.dynamic = self._compile_dynamic(trial, settings) if settings.background else None
        if trial is None and self.dynamic is None:
            self._check_compiles(settings)
        compiled = trial.compiled if trial else self.dynamic
        self.streams = compiled.streams if compiled else 1
        self.computes_in = compiled.computes_in if compiled and settings.device == "CPU" else None
        self.slots = _REQUESTS_PER_STREAM * self.streams
        self.stacking: Stacking | None = None
        self.stacking_reason: str | None = None
        try:
            self.stacking = self._stacking(trial, settings)
        except NotProven as error:
            self.stacking_reason = str(error)
        self.info = ModelInfo(
            name,
            number,
            (number,),
            self._specs,
            self._output_specs(),
            settings.max_batch_rows,
            stacked_elements=self.stacking.elements if self.stacking else -1.0,
        )
        self.detections = self._runtime.detections(self._model)
        self.numbers = number_check_of(self._model, self._specs, self.info.outputs)

    def reshape(self, key: ShapeKey) -> Callable[[], CompiledShape]:
        """Reshapes the model, and returns a function that compiles it.

        The compilation is static, except for the batch dimension if the key leaves it open. Both
        steps raise CannotReshape.
        """
        return self._reshaped(key, self._precision)

    def _reshaped(self, key: ShapeKey, precision: Mapping[str, Any]) -> Callable[[], CompiledShape]:
        model = self._model_at(key)
        return lambda: self._runtime.compile(model, **precision)

    def _model_at(self, key: ShapeKey) -> Model:
        """Raises CannotReshape."""
        model = self._runtime.reshaped(self._model, to_compile(self._specs, key))
        if any(0 in shape for shape in key):
            # Compiling a Gather from a fixed empty shape ends the process.
            opened = [tuple(size or -1 for size in shape) for shape in key]
            model = self._runtime.reshaped(self._model, to_compile(self._specs, tuple(opened)))
        return model

    def _precision_for(self, trial: "_Trial") -> Mapping[str, Any]:
        """The faster precision, if the settings leave the choice to the processor."""
        if not self._runtime.chooses_precision or trial.compiled.computes_in == "f32":
            return {}
        if self._runtime.weight_bytes(self._model) > MOST_COMPARED_BYTES:
            return {}

        def compiled(shapes: InputShapes, more: Mapping[str, Any]) -> CompiledShape:
            if not more and shapes == trial.shapes:
                return trial.compiled
            return self._reshaped(trial_key(self._specs, shapes), more)()

        sizes = dict.fromkeys((trial.shapes, scaled(self._specs, trial.shapes, 2)))
        return FLOAT32 if float32_is_quicker(self._specs, sizes, compiled) else {}

    def _reshapes(self, shapes: Sequence[Sequence[Dim | int]]) -> bool:
        try:
            self._runtime.reshaped(self._model, shapes)
        except CannotReshape:
            return False
        return True

    def _compile_dynamic(
        self, trial: "_Trial | None", settings: LoadSettings
    ) -> CompiledShape | None:
        """Compiles for all accepted shapes; None if the model cannot be compiled so."""
        try:
            compiled = self._compiled_for_all()
            if trial is None:
                return compiled
            compiled.infer(random_rows(self._specs, trial.shapes, 0))
            if self._runtime.keeps_kernels and not compiled.is_static:
                new = [random_rows(self._specs, row, 0) for row in self._smaller(trial.shapes)]
                self.kernel_cache = sized(compiled, new, settings.kernel_cache_bytes)
                compiled = self._compiled_for_all(**{KERNEL_CACHE: self.kernel_cache.kernels})
                compiled.remember_kernels_of(self.kernel_cache.shapes)
        except (CannotReshape, CannotInfer):
            return None
        return compiled

    def _compiled_for_all(self, **more: Any) -> CompiledShape:
        """Raises CannotReshape."""
        model = self._runtime.reshaped(self._model, [spec.dims for spec in self._specs])
        return self._runtime.compile(model, **{**self._precision, **more})

    def _smaller(self, shapes: InputShapes) -> list[InputShapes]:
        """Up to seven more shapes, each a little smaller; empty if the model takes no other."""
        smaller = (scaled(self._specs, shapes, 1 - step / 32) for step in range(1, 8))
        return [other for other in dict.fromkeys(smaller) if other != shapes]

    def _check_compiles(self, settings: LoadSettings) -> None:
        """Raises CannotLoad if the model does not compile with its own shapes either."""
        try:
            self._runtime.compile(self._model)
        except CannotReshape as error:
            config = f" with plugin_config {settings.plugin_config}" * bool(settings.plugin_config)
            raise CannotLoad(
                f"{error}, for device '{settings.device}'{config}"
            ) from error.__cause__

    def _output_specs(self) -> tuple[OutputSpec, ...]:
        """The outputs, with their dimensions for the accepted inputs."""
        try:
            model = self._runtime.reshaped(self._model, [spec.dims for spec in self._specs])
        except CannotReshape:
            model = self._model
        return self._runtime.outputs(model)

    def _trial_with_or_without_batch(self, inputs: Sequence[ModelInput]) -> "_Trial | None":
        """Tries with an open batch dimension, then without one if nothing compiles."""
        opened = self._specs
        closed = tuple(replace(spec, batch_axis=None) for spec in opened)
        for specs in dict.fromkeys((opened, closed)):
            self._specs = specs
            if (trial := self._trial(inputs)) is not None:
                return trial
        self._specs = opened
        return None

    def _trial(self, inputs: Sequence[ModelInput]) -> "_Trial | None":
        """Compiles and runs the model at the first trial shape that works; None if none does."""
        for shapes in trial_shapes(inputs, [spec.dims for spec in self._specs]):
            try:
                key = trial_key(self._specs, shapes)
                compiled = self.reshape(key)()
                compiled.infer(random_rows(self._specs, shapes, 0))
            except (CannotReshape, CannotInfer):
                continue
            return _Trial(compiled, key, shapes)
        return None

    def stacks(self, key: ShapeKey) -> bool:
        """Whether requests of this key run faster stacked."""
        return self.info.stacks(key)

    def single_key(self, key: ShapeKey) -> ShapeKey:
        """The key of the compilation for requests of one row.

        If those are not stacked, they get a compilation of their own. With a fixed batch it is
        faster than one for any number of rows, for a detector by 2 to 17 %.
        """
        return key if self.stacks(key) else one_row(key)

    def key_of(self, shapes: Sequence[Sequence[int]]) -> ShapeKey:
        """The key of the compilation for requests with these shapes."""
        key = trial_key(self._specs, shapes)
        return self.single_key(key) if rows_of_inputs(self._specs, shapes) == {1} else key

    def shapes_of(self, key: ShapeKey) -> InputShapes:
        """Input shapes that map to this key, with the fewest rows above zero."""
        fewest = 1 if self.stacks(key) else 2
        return tuple(
            tuple(
                spec.dims[axis].nearest(fewest) if size == -1 else size
                for axis, size in enumerate(shape)
            )
            for spec, shape in zip(self._specs, key, strict=True)
        )

    def reference(self, key: ShapeKey) -> CompiledShape:
        """A static compilation without the optimisations that may compile shapes wrongly.

        It does without the snippets of the CPU plugin (wrong in 2026.4.1 at least, see
        docs/upstream). For another device it is the CPU's, in float32. Raises CannotReshape.
        """
        return self._runtime.reference().compile(self._model_at(key), **self._precision)

    def _stacking(self, trial: "_Trial | None", settings: LoadSettings) -> Stacking:
        """How to stack requests. Raises NotProven, also if stacking is off or not faster."""
        if settings.stacking == "never":
            raise NotProven("batching.stacking is never")
        if settings.max_batch_rows == 1:
            raise NotProven("batching.max_rows is 1")
        if trial is None:
            raise NotProven("the model ran at none of the trial shapes")
        row = tuple((1, *shape[1:]) for shape in trial.shapes)
        rules = rows_kept_apart(self._model, self._specs, row)
        try:
            prove((self.dynamic or trial.compiled).infer, self._specs, row, rules)
        except CannotInfer as error:
            raise NotProven(f"a trial run failed: {error}") from error
        if settings.stacking == "always":
            return Stacking(rules, float("inf"))
        elements = self._largest_that_stacks(row)
        if not elements:
            raise NotProven("rows run slower stacked than side by side")
        return Stacking(rules, elements)

    def _largest_that_stacks(self, row: InputShapes) -> int:
        """Elements per row of the largest shape at which stacking was faster, 0 if none.

        The time that stacking saves does not grow with the shape, so stacking wins below some size.
        This starts at the trial shape and doubles the open dimensions while stacking wins, or
        halves them until it wins. It starts no further size after five seconds, so that large and
        blocking models load sooner.
        """
        deadline = time.monotonic() + timing.STACKING_MEASURED_S
        best = self._stacks_at(row)
        factor, growing = (2.0, True) if best else (0.5, False)
        for _ in range(_SIZES_TRIED):
            larger_or_smaller = scaled(self._specs, row, factor)
            if larger_or_smaller == row or time.monotonic() > deadline:
                break
            row, stacks = larger_or_smaller, self._stacks_at(larger_or_smaller)
            if stacks:
                best = stacks
            if bool(stacks) != growing:
                break
        return best

    def _stacks_at(self, row: InputShapes) -> int:
        key = trial_key(self._specs, row)
        try:
            compiled = self.dynamic or self.reshape(key)()
            wins = stacking_wins(compiled, random_rows(self._specs, row, 0), self.slots)
        except (CannotInfer, CannotReshape):
            return 0
        return elements_per_row(key) if wins else 0


@dataclass(frozen=True, slots=True)
class _Trial:
    compiled: CompiledShape
    key: ShapeKey
    shapes: InputShapes
