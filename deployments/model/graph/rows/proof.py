"""Proves from a model's graph that it keeps the rows of its inputs apart.

Requests of several clients are stacked only if no operation lets one row change another row's
result. The proof follows the rows from the inputs on, along their axis; an operation without a rule
(`rules`) ends it. Shapes may depend on the number of rows, values may not: a node that cannot be
folded while that number is open depends on it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import Final, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset15, passes

from deployments.inference import InputShapes, InputSpec
from deployments.model.graph.rows.operation import FREE, Operation, Port, Shape, State
from deployments.model.graph.rows.outputs import Detections, NotProven, OutputRule, RowsAlong
from deployments.model.graph.rows.rules import states_after

_COUNTS: Final = (1, 5, 64)
_COUNTS_ELSEWHERE: Final = (2, 7)
"""The numbers of rows at which shapes are compared, at the first shape and at another."""
_STEPS: Final = (32, 2, 1)
_LARGE: Final = 256
"""Larger constants count as unknown, so that no weights are folded or converted."""
_INTEGERS: Final = (ov.Type.i32, ov.Type.i64)

_ShapesByNode: TypeAlias = dict[str, list[tuple[Shape | None, ...]]]


def rows_kept_apart(
    model: ov.Model, specs: Sequence[InputSpec], shapes: InputShapes
) -> tuple[OutputRule, ...]:
    """The rules by which stacked outputs split; `shapes` are those of one row. Raises NotProven.

    With open dimensions it proves twice, the second time at sizes that differ from one another, so
    that it does not confuse two dimensions of one size.
    """
    for spec in specs:
        if spec.batch_axis != 0:
            raise NotProven(f"input '{spec.name}' has no open number of rows as its dimension 0")
        if not spec.dims[0].accepts(1):
            raise NotProven(f"input '{spec.name}' takes {spec.dims[0]} rows, not 1")
    rules = _Proof(model, shapes, _COUNTS).rules()
    for others in _other_sizes(specs, shapes):
        try:
            proof = _Proof(model, others, _COUNTS_ELSEWHERE)
        except _Refused:
            continue
        if [_place(rule) for rule in proof.rules()] != [_place(rule) for rule in rules]:
            raise NotProven(f"rows lie along other axes when inputs have shapes {others}")
        break
    return rules


class _Refused(NotProven):
    """Raised when the model cannot be reshaped to some shapes."""


def _place(rule: OutputRule) -> int | None:
    """The axis of the rows, which must not depend on sizes; a row's elements may."""
    return rule.axis if isinstance(rule, RowsAlong) else None


def _other_sizes(specs: Sequence[InputSpec], shapes: InputShapes) -> Iterator[InputShapes]:
    """The shapes with larger open dimensions: each by itself, or equal ones together."""
    ways = (
        lambda place, axis, size: (place, axis),
        lambda place, axis, size: (axis, size),
        lambda place, axis, size: size,
    )
    seen = {shapes}
    for way in ways:
        for step in _STEPS:
            ranks: dict[object, int] = {}
            others = tuple(
                tuple(
                    _larger(
                        spec, axis, size, ranks.setdefault(way(place, axis, size), len(ranks)), step
                    )
                    for axis, size in enumerate(shape)
                )
                for place, (spec, shape) in enumerate(zip(specs, shapes, strict=True))
            )
            if others not in seen:
                seen.add(others)
                yield others


def _larger(spec: InputSpec, axis: int, size: int, rank: int, step: int) -> int:
    other = size + step * (rank + 1)
    is_open = axis != spec.batch_axis and spec.dims[axis].fixed is None
    return other if is_open and spec.dims[axis].accepts(other) else size


class _Proof:
    """The graph at one shape of its inputs, with an open number of rows."""

    def __init__(self, model: ov.Model, shapes: InputShapes, counts: tuple[int, ...]) -> None:
        """Reshapes a copy of the model. Raises _Refused."""
        self._counts = counts
        self._graph = model.clone()
        _reshape(self._graph, shapes, ov.Dimension(1, -1))
        _hide_large_constants(self._graph)
        self._names = _numbered(self._graph)
        inputs = self._graph.inputs[: len(shapes)]
        self._inputs = {port.get_node().get_friendly_name() for port in inputs}
        _find_known_sizes(self._graph)
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(self._graph)
        self._nodes = self._graph.get_ordered_ops()
        self._shapes = self._shapes_of(self._graph.clone(), shapes)
        self._states: dict[tuple[str, int], State] = {}

    def _shapes_of(self, graph: ov.Model, shapes: InputShapes) -> _ShapesByNode:
        """The shapes of each unfolded node's outputs at each number of rows."""
        wanted = {n.get_friendly_name() for n in self._nodes if n.get_type_name() != "Constant"}
        found: dict[str, list[list[Shape | None]]] = {}
        for count in self._counts:
            _reshape(graph, shapes, ov.Dimension(count))
            for node in graph.get_ops():
                name = node.get_friendly_name()
                if name in wanted:
                    outputs = found.setdefault(name, [[] for _ in range(node.get_output_size())])
                    for position, sizes in enumerate(outputs):
                        sizes.append(_shape(node.get_output_partial_shape(position)))
        return {
            name: [tuple(sizes) for sizes in outputs]
            for name, outputs in found.items()
            if all(len(sizes) == len(self._counts) for sizes in outputs)
        }

    def rules(self) -> tuple[OutputRule, ...]:
        """The rules of the model's outputs. Raises NotProven."""
        for node in self._nodes:
            for position, state in enumerate(self._after(node)):
                self._states[node.get_friendly_name(), position] = state
        return tuple(map(self._rule, self._graph.outputs))

    def _after(self, node: ov.Node) -> list[State]:
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind == "Constant":
            return [FREE]
        if kind == "Parameter":
            return [RowsAlong(0, 1) if name in self._inputs else FREE]
        if name not in self._shapes:
            raise NotProven(f"the graph's {kind} changes with the number of rows")
        return states_after(self._operation(node))

    def _operation(self, node: ov.Node) -> Operation:
        info, name = node.get_type_info(), node.get_friendly_name()
        outputs = zip(node.outputs(), self._shapes[name], strict=True)
        return Operation(
            kind=info.name,
            version=info.version_id,
            name=self._names[name],
            attributes=node.get_attributes(),
            inputs=tuple(self._input(port.get_source_output()) for port in node.inputs()),
            outputs=tuple(
                Port(shapes, used=bool(port.get_target_inputs())) for port, shapes in outputs
            ),
            counts=self._counts,
        )

    def _input(self, source: ov.Output) -> Port:
        node = source.get_node()
        if node.get_type_name() == "Constant":
            shapes = (tuple(node.get_output_shape(0)),) * len(self._counts)
            return Port(shapes, constant=partial(node.get_data))
        name, position = node.get_friendly_name(), source.get_index()
        return Port(self._shapes[name][position], self._states[name, position])

    def _rule(self, output: ov.Output) -> OutputRule:
        name = output.get_node().get_friendly_name()
        state = self._states[name, 0]
        if isinstance(state, RowsAlong | Detections):
            return state
        shown = sorted(output.get_names(), key=len) or [self._names[name]]
        raise NotProven(f"output '{shown[0]}' has no rows: it {state.value}")


def _reshape(graph: ov.Model, shapes: InputShapes, rows: ov.Dimension) -> None:
    """Reshapes the graph. Raises _Refused."""
    ports = graph.inputs[: len(shapes)]
    wanted = {
        port: ov.PartialShape([rows, *map(ov.Dimension, shape[1:])])
        for port, shape in zip(ports, shapes, strict=True)
    }
    try:
        graph.reshape(wanted)
    except RuntimeError as error:
        raise _Refused("the model cannot be reshaped to other numbers of rows") from error


def _hide_large_constants(graph: ov.Model) -> None:
    hidden = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or prod(node.get_output_shape(0)) <= _LARGE:
            continue
        unknown = opset15.parameter(node.get_output_shape(0), node.get_output_element_type(0))
        node.output(0).replace(unknown.output(0))
        hidden.append(unknown)
    graph.add_parameters(hidden)


def _find_known_sizes(graph: ov.Model) -> None:
    """Makes OpenVINO evaluate sizes cut from shapes, to fold those without the number of rows.

    It evaluates a node that is used as a shape, and remembers the result.
    """
    zero = opset15.constant(np.int64(0))
    line = opset15.constant(np.array([-1], np.int64))
    seen = set()
    found = [node for node in graph.get_ops() if node.get_type_name() == "ShapeOf"]
    while found:
        for port in found.pop().output(0).get_target_inputs():
            node = port.get_node()
            if node.get_friendly_name() not in seen and _holds_sizes(node):
                seen.add(node.get_friendly_name())
                with suppress(RuntimeError):  # some are not sizes, but differences of sizes
                    opset15.broadcast(zero, opset15.reshape(node, line, special_zero=False))
                found.append(node)


def _holds_sizes(node: ov.Node) -> bool:
    if node.get_output_size() != 1 or node.get_output_element_type(0) not in _INTEGERS:
        return False
    shape = node.get_output_partial_shape(0)
    return bool(shape.is_static) and len(shape) <= 1


def _numbered(graph: ov.Model) -> dict[str, str]:
    """Gives each node a unique name, which its copies keep; returns the old names."""
    names = {}
    for number, node in enumerate(graph.get_ordered_ops()):
        names[str(number)] = node.get_friendly_name()
        node.set_friendly_name(str(number))
    return names


def _shape(shape: ov.PartialShape) -> Shape | None:
    return None if shape.is_dynamic else tuple(shape.to_shape())
