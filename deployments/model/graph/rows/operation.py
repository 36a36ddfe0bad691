"""An operation of a graph, in the form that the rules check."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any, Final, TypeAlias

from deployments.model.graph.rows.outputs import Detections, NotProven, RowsAlong
from deployments.tensors import Array


class Rowless(Enum):
    """The states of a tensor without rows."""

    FREE = "does not depend on the rows"
    COUNTED = "depends on the number of rows, not on their values"


State: TypeAlias = Rowless | RowsAlong | Detections
FREE: Final = Rowless.FREE
COUNTED: Final = Rowless.COUNTED
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its shape at each tried number of rows, None if values decide it."""

    shapes: tuple[Shape | None, ...]
    state: State = FREE
    constant: Callable[[], Array] | None = None
    used: bool = True

    @property
    def known(self) -> tuple[Shape, ...]:
        return tuple(shape for shape in self.shapes if shape is not None)

    @property
    def shape(self) -> Shape:
        return self.known[0]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its inputs and outputs; `counts` are the tried numbers of rows."""

    kind: str
    version: str
    name: str
    attributes: dict[str, Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    counts: tuple[int, ...]

    def refusal(self, why: str) -> NotProven:
        return NotProven(f"{self.kind} at node '{self.name}' {why}")

    @property
    def not_known(self) -> NotProven:
        return NotProven(
            f"operation {self.kind} at node '{self.name}' is not known to keep rows apart"
        )

    @property
    def across(self) -> NotProven:
        return self.refusal("works across rows")

    def rows(self, position: int) -> RowsAlong:
        """Where the rows lie in an input. Raises NotProven if it has none."""
        state = self.inputs[position].state if position < len(self.inputs) else FREE
        if not isinstance(state, RowsAlong):
            raise self.refusal(f"has rows, but not in input {position}")
        return state

    def with_rows(self) -> Iterator[tuple[int, RowsAlong]]:
        for position, port in enumerate(self.inputs):
            if isinstance(port.state, RowsAlong):
                yield position, port.state

    def only_rows(self, *positions: int) -> None:
        """Raises NotProven if any other input depends on the rows."""
        for position, port in enumerate(self.inputs):
            if position in positions:
                continue
            if port.state is COUNTED:
                raise self.refusal("takes the number of rows as a value")
            if port.state is not FREE:
                raise self.refusal(f"takes input {position} from rows")

    def no_rows(self, *positions: int) -> None:
        """Raises NotProven if one of these inputs, which give shapes, depends on rows' values."""
        if any(
            position < len(self.inputs) and not isinstance(self.inputs[position].state, Rowless)
            for position in positions
        ):
            raise self.refusal("has a shape that is computed from values")

    def values(self, position: int) -> list[int]:
        """The numbers of a constant input. Raises NotProven if it is not constant."""
        constant = self.inputs[position].constant
        if constant is None:
            raise self.refusal(f"has an input {position} that is not constant")
        return [int(value) for value in constant().ravel()]

    def axis(self, axis: int, position: int = 0) -> int:
        """The axis counted from the front."""
        return axis % self.inputs[position].rank if axis < 0 else axis

    def axes(self, position: int) -> list[int]:
        """The axes that a constant input names, counted from the front of input 0."""
        return [self.axis(axis) for axis in self.values(position)]

    def check_sizes(self) -> None:
        """Raises NotProven if a shape does not follow from those of the model's inputs."""
        if any(None in port.shapes for port in (*self.inputs, *self.outputs)):
            raise self.refusal("has a shape that is computed from values")

    @property
    def grows(self) -> bool:
        """Whether the shape of an output follows from the number of rows."""
        return any(_vary(port.known) for port in self.outputs)

    def grown(self, position: int = 0) -> RowsAlong:
        """The only dimension of an output that grows with the rows. Raises NotProven."""
        shapes = self.outputs[position].known
        if len({len(shape) for shape in shapes}) == 1:
            growing = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if _vary(sizes)]
            if len(growing) == 1:
                (axis,) = growing
                sizes = [shape[axis] for shape in shapes]
                each = sizes[0] // self.counts[0]
                if sizes == [each * count for count in self.counts]:
                    return RowsAlong(axis, each)
        raise self.refusal("merges rows with another dimension")

    def unmoved(self, axis: int, output_axis: int) -> bool:
        """Whether input 0 has the same size on `axis` as output 0 on `output_axis`."""
        pairs = zip(self.inputs[0].known, self.outputs[0].known, strict=True)
        return all(before[axis] == after[output_axis] for before, after in pairs)

    def check(self, states: Sequence[State]) -> None:
        """Raises NotProven if the shapes of the outputs contradict the states."""
        for port, state in zip(self.outputs, states, strict=True):
            if state is FREE and _vary(port.known):
                raise self.refusal("has a shape that follows from the number of rows")
            if isinstance(state, RowsAlong) and port.known != self._expected(port, state):
                raise self.refusal("merges rows with another dimension")

    def _expected(self, port: Port, rows: RowsAlong) -> tuple[Shape, ...]:
        front, back = port.shape[: rows.axis], port.shape[rows.axis + 1 :]
        return tuple((*front, rows.each * count, *back) for count in self.counts)


def _vary(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values)


def before(shape: Shape, axis: int) -> int:
    """The product of the dimensions in front of an axis."""
    return prod(shape[:axis])
