"""Plans the check of a graph: the nodes that must stay within the device's range.

This runs once for each model; `check` checks each request by these steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, TypeAlias

import openvino as ov

from deployments.inference import InputSpec
from deployments.model.graph.numbers import bounds, exact
from deployments.model.graph.numbers.bounds import Bounds, Shape

Key: TypeAlias = tuple[str, int]
"""A node's name and one of its outputs."""

_EVERYTHING: Final[Bounds] = (-inf, inf)


@dataclass(frozen=True, slots=True)
class Step:
    """A node of a graph, with the sources of its needed inputs and the limit of its values.

    `ends` are the ends of its type, `fixed` the bounds of a constant, and `fp64` means that values
    beyond float32 become infinite in the device. The step caches these, because asking a node is
    slow.
    """

    node: Any
    name: str
    kind: str
    sources: tuple[Key, ...]
    inputs: frozenset[str]
    limit: Bounds | None
    ends: Bounds
    fixed: Bounds | None
    rounds_down: bool
    fp64: bool
    of: Callable[[Sequence[Bounds], Shape | None], Bounds]


def planned(nodes: Sequence[Any], inputs: Mapping[str, InputSpec]) -> list[Step]:
    """The nodes that must stay within limits, and those that their bounds depend on, in order."""
    steps: dict[str, Step] = {}
    for node in nodes:
        ports = [node.input(position) for position in bounds.needed(node)]
        sources = tuple(map(exact.source, ports))
        if not bounds.known(node) or any(name not in steps for name, _ in sources):
            continue
        if not all(bounds.has_bounds(port.get_source_output()) for port in ports):
            continue
        name = node.get_name()
        depends = frozenset().union(*(steps[own].inputs for own, _ in sources))
        if node.get_type_name() == "Parameter":
            depends = frozenset({inputs[name].name})
        elif node.get_type_name() == "ShapeOf":
            depends = frozenset({inputs[exact.source(node.input(0))[0]].name})
        kind = node.get_type_name()
        steps[name] = Step(
            node,
            name,
            kind,
            sources,
            depends,
            _watched(node) if depends else None,
            bounds.INTEGERS.get(node.get_output_element_type(0).get_type_name(), _EVERYTHING),
            bounds.constant(node) if kind == "Constant" else None,
            bounds.rounds_down(node),
            kind in bounds.ARITHMETIC and node.get_output_element_type(0) == ov.Type.f64,
            bounds.of(node),
        )
    return _ancestors_of_limits(steps)


def has_unknown_integers(nodes: Sequence[Any]) -> bool:
    """Whether an operation without bounds computes integers from those of the inputs."""
    fed: set[str] = set()
    for node in nodes:
        kind, name = node.get_type_name(), node.get_name()
        integers = any(_is_integer(port) for port in node.outputs())
        if kind == "Parameter" and integers:
            fed.add(name)
        elif integers and any(exact.source(port)[0] in fed for port in node.inputs()):
            fed.add(name)
            if kind != "Result" and not bounds.known(node):
                return True
    return False


def _is_integer(port: Any) -> bool:
    return port.get_element_type().get_type_name() in bounds.INTEGERS


def _ancestors_of_limits(steps: Mapping[str, Step]) -> list[Step]:
    wanted: set[str] = set()
    for step in reversed(list(steps.values())):
        if step.limit is not None or step.fp64 or step.name in wanted:
            wanted |= {step.name, *(name for name, _ in step.sources)}
    return [step for step in steps.values() if step.name in wanted]


def same_shape(node: Any) -> str:
    """The name of the node behind the first input, skipping conversions."""
    node = node.input_value(0).get_node()
    converts = node.get_type_name() in bounds.CONVERSIONS
    return same_shape(node) if converts else str(node.get_name())


def _watched(node: Any) -> Bounds | None:
    """The limits of a node, if the device may change its numbers."""
    kind = node.get_type_name()
    declared = node.get_output_element_type(0).get_type_name()
    if kind in ("Parameter", "Constant"):
        return None
    given_out = any(port.get_node().get_type_name() == "Result" for port in readers(node))
    if kind in bounds.ARITHMETIC or (
        declared in bounds.WIDE and (given_out or kind in bounds.CONVERSIONS)
    ):
        return bounds.limit(node)
    return None


def readers(node: Any) -> list[Any]:
    """The inputs of other nodes that read a node's outputs."""
    return [port for output in node.outputs() for port in output.get_target_inputs()]
