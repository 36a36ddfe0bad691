"""Checks that a request's numbers stay within the range in which the device computes.

OpenVINO's plugins silently compute 64-bit integers in 32 bits, FP64 in float32 and some operations
on integers in float32. Where they would answer wrongly, a small model is computed here in the types
that it declares, and the request is refused for a larger one.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from math import inf, isfinite
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from deployments.datatypes import COMPUTED_IN
from deployments.errors import NumberNotCarried, ServingError
from deployments.inference import InputSpec, OutputSpec
from deployments.model.graph.numbers import bounds, exact
from deployments.model.graph.numbers.bounds import Bounds, Shape
from deployments.model.graph.numbers.steps import (
    Key,
    Step,
    has_unknown_integers,
    planned,
    readers,
    same_shape,
)
from deployments.model.openvino.float64 import FP64
from deployments.tensors import Array, Tensor

_MOST_ELEMENTS: Final = 1 << 20
_REMEMBERED_SHAPES: Final = 64
_LIMITS: Final[dict[str, Bounds]] = {
    "INT64": (-(2**31), 2**31 - 1),
    "UINT64": (0, 2**31 - 1),
    "UINT32": (0, 2**31 - 1),
    FP64: (-bounds.LARGEST_FLOAT32, bounds.LARGEST_FLOAT32),
}


class _Leaves(Exception):
    """Raised when a node's values may leave the device's range."""

    def __init__(self, step: Step, value: float) -> None:
        super().__init__(step.name)
        self.step, self.value = step, value


class NumberCheck:
    """The check of one model; thread-safe and blocking."""

    def __init__(
        self, model: ov.Model, inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._model = model.clone()
        self._parameters = [node.get_name() for node in self._model.get_parameters()]
        self._nodes = self._model.get_ordered_ops()
        self._small = exact.small_enough(self._model)
        self._unknown = self._small and has_unknown_integers(self._nodes)
        self._steps = planned(self._nodes, dict(zip(self._parameters, inputs, strict=True)))
        self._counted = [s for s in self._steps if s.kind in bounds.SUMS]
        self._computed = [name for name in self._parameters if self._is_computed_with(name)]
        self._passed = self._passed_through()
        self._shapes_at = lru_cache(_REMEMBERED_SHAPES)(self._counted_shapes)

    @property
    def matter(self) -> bool:
        """Whether there is anything to check."""
        ports: tuple[InputSpec | OutputSpec, ...] = (*self._inputs, *self._outputs)
        return (
            bool(self._steps or self._unknown)
            or any(port.datatype in COMPUTED_IN for port in self._inputs)
            or any(port.datatype == FP64 for port in ports)
        )

    def instead(self, tensors: Sequence[Tensor]) -> list[Tensor] | ServingError | None:
        """The answer in place of the device's: all outputs, or an error.

        None if the device answers correctly. `tensors` are in the model's order.
        """
        given = dict(zip(self._parameters, tensors, strict=True))
        for name in self._computed:
            wide = given[name].datatype in _LIMITS
            if wide and (error := _refused(given[name])) is not None:
                return error
        if self._unknown and (answer := self._exactly(given)) is not None:
            return answer
        try:
            overflows = self._check_bounds(given)
        except _Leaves as left:
            return self._exactly(given) or self._looked_through(given, left)
        return self._exactly(given) if overflows and all(map(_no_infinity, tensors)) else None

    def checked(
        self, tensors: Sequence[Tensor], outputs: list[Tensor]
    ) -> list[Tensor] | ServingError:
        """The device's outputs, unless FP64 became infinite there without an infinite input.

        Outputs that are inputs get the inputs' numbers, even if the device changed them.
        """
        outputs = [self._original(output, tensors) for output in outputs]
        infinite = [o for o in outputs if o.datatype == FP64 and not _no_infinity(o)]
        if not infinite or not all(map(_no_infinity, tensors)):
            return outputs
        answer = self._exactly(dict(zip(self._parameters, tensors, strict=True)))
        if answer is not None:
            exact_outputs = {output.name: output for output in answer}
            return [exact_outputs[output.name] for output in outputs]
        what = f"output '{infinite[0].name}' ({FP64}) becomes, for finite inputs,"
        return NumberNotCarried(what, inf, *_LIMITS[FP64])

    def _is_computed_with(self, name: str) -> bool:
        node = next(node for node in self._nodes if node.get_name() == name)
        return any(port.get_node().get_type_name() != "Result" for port in readers(node))

    def _passed_through(self) -> dict[str, int]:
        """The outputs that are inputs, with the positions of those."""
        sources = (exact.source(result.input(0))[0] for result in self._model.get_results())
        return {
            spec.name: self._parameters.index(name)
            for spec, name in zip(self._outputs, sources, strict=True)
            if name in self._parameters and spec.datatype in _LIMITS
        }

    def _original(self, output: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        position = self._passed.get(output.name)
        if position is None:
            return output
        tensor = tensors[position]
        return Tensor(output.name, tensor.datatype, tensor.shape, np.array(tensor.data))

    def _check_bounds(self, given: Mapping[str, Tensor]) -> bool:
        """Whether FP64 may leave float32. Raises _Leaves."""
        overflows = False
        shapes = self._shapes_at(tuple(tensor.shape for tensor in given.values()))
        found: dict[str, Bounds] = {}
        for step in self._steps:
            operands = [found[name] for name, _ in step.sources]
            own = _bounds(step, operands, given, shapes.get(step.name))
            _check(step, [*operands, own])
            if step.limit is not None and own[0] < 0 and step.rounds_down:
                raise _Leaves(step, own[0])  # the device rounds towards zero
            overflows = overflows or (step.fp64 and bounds.magnitude(own) > bounds.LARGEST_FLOAT32)
            found[step.name] = own if step.fixed else bounds.wrapped(step.ends, own)
        return overflows

    def _exactly(self, given: Mapping[str, Tensor]) -> list[Tensor] | None:
        """The outputs computed in the declared types; None if too slow or not supported."""
        if not self._small or sum(np.size(t.data) for t in given.values()) > _MOST_ELEMENTS:
            return None
        arrays = {name: np.asarray(tensor.data) for name, tensor in given.items()}
        try:
            values = exact.computed(self._nodes, arrays)
        except exact.NotExact:
            return None
        results = [values[result.get_name(), 0] for result in self._model.get_results()]
        return [
            Tensor(spec.name, spec.datatype, array.shape, np.ascontiguousarray(array))
            for spec, array in zip(self._outputs, results, strict=True)
        ]

    def _looked_through(self, given: Mapping[str, Tensor], left: _Leaves) -> ServingError | None:
        """The error if the numbers themselves, not only their bounds, may leave the limits."""
        arrays = {name: np.asarray(given[name].data) for name in self._parameters}
        try:
            values = exact.computed(self._ancestors, arrays)
            for step in self._steps:
                if step.limit is not None:
                    _check_values(step, values)
        except _Leaves as certain:
            left = certain
        except exact.NotExact:
            pass
        else:
            return None
        step = left.step
        inputs = ", ".join(f"'{name}'" for name in sorted(step.inputs))
        what = f"from input {inputs}, node '{step.node.get_friendly_name()[:100]}' may compute"
        assert step.limit is not None
        return NumberNotCarried(what, left.value, *step.limit)

    @cached_property
    def _ancestors(self) -> list[Any]:
        """The nodes from which the steps' numbers are computed, in order."""
        wanted = {step.name for step in self._steps}
        for node in reversed(self._nodes):
            if node.get_name() in wanted and node.get_type_name() != "ShapeOf":
                wanted |= {exact.source(port)[0] for port in node.inputs()}
        return [node for node in self._nodes if node.get_name() in wanted]

    def _counted_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
        """The shape of each sum's input, where the model's input shapes determine it."""
        own = dict(zip(self._parameters, shapes, strict=True))
        known = {step.name: own.get(same_shape(step.node)) for step in self._counted}
        if all(shape is not None for shape in known.values()):
            return {name: shape for name, shape in known.items() if shape is not None}
        summed = [step.node.input_value(0) for step in self._counted]
        used = self._model.get_parameters()
        part = ov.Model([ops.result(port) for port in summed], used).clone()
        part.reshape(dict(zip(part.inputs, map(ov.PartialShape, map(list, shapes)), strict=True)))
        return {
            step.name: tuple(port.get_partial_shape().to_shape())
            for step, port in zip(self._counted, part.outputs, strict=True)
            if port.get_partial_shape().is_static
        }


def number_check_of(
    model: ov.Model, inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]
) -> NumberCheck | None:
    """The check of a model; None if the device changes none of its numbers."""
    numbers = NumberCheck(model, inputs, outputs)
    return numbers if numbers.matter else None


def _bounds(
    step: Step, operands: Sequence[Bounds], given: Mapping[str, Tensor], shape: Shape | None
) -> Bounds:
    if step.fixed is not None:
        return step.fixed
    if step.kind == "Parameter":
        return bounds.ends(np.asarray(given[step.name].data))
    if step.kind == "ShapeOf":
        sizes = given[exact.source(step.node.input(0))[0]].shape
        return min(sizes, default=0), max(sizes, default=0)
    return step.of(operands, shape)


def _check(step: Step, found: Sequence[Bounds]) -> None:
    """Raises _Leaves if an operand or the result may leave the limits."""
    if step.limit is None:
        return
    own = found[-1:] if step.kind in _ONLY_RESULT else found
    value = bounds.beyond(step.limit, own)
    if value is not None:
        raise _Leaves(step, value)


_ONLY_RESULT: Final = bounds.CONVERSIONS | {"Maximum", "Minimum"}
"""Operations that give the same result for an operand that the device has clamped."""


def _check_values(step: Step, values: Mapping[Key, Array]) -> None:
    """Raises _Leaves if values leave the limits; sums must stay inside in any order of summands."""
    operands = [values[key] for key in step.sources]
    found = [bounds.ends(array) for array in operands]
    result = values[step.name, 0]
    kind = step.kind
    if (kind in bounds.SUMS and kind != "CumSum") or kind == "Power":
        largest = [np.abs(array.astype(np.float64)) for array in operands]
        result = exact.by_numpy(step.node, [*largest, *_rest(step, values, len(operands))])
    _check(step, [*found, bounds.ends(result)])


def _rest(step: Step, values: Mapping[Key, Array], start: int) -> list[Array]:
    return [values[exact.source(port)] for port in step.node.inputs()[start:]]


def _refused(tensor: Tensor) -> ServingError | None:
    data, limits = np.asarray(tensor.data), _LIMITS[tensor.datatype]
    low, high = bounds.ends(data)
    if not (isfinite(low) and isfinite(high)):
        low, high = bounds.ends(data[np.isfinite(data)])
    value = bounds.beyond(limits, [(low, high)])
    if value is None:
        return None
    types = f"{tensor.datatype}, computed in {COMPUTED_IN[tensor.datatype]}"
    what = f"input '{tensor.name}' ({types}) has"
    return NumberNotCarried(what, value, *limits)


def _no_infinity(tensor: Tensor) -> bool:
    data = np.asarray(tensor.data)
    return data.dtype.kind != "f" or not np.isinf(data).any()
