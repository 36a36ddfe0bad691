"""Rules for operations that move, repeat, join or cut: where the rows lie in their outputs.

Each rule takes an operation with rows, or the number of rows, in some input. It raises NotProven
unless every row of the outputs is what that row alone would give.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from deployments.model.graph.rows.operation import COUNTED, FREE, Operation, State, before
from deployments.model.graph.rows.outputs import RowsAlong

Rule: TypeAlias = Callable[[Operation], list[State]]


def _shape_of(operation: Operation) -> list[State]:
    return [COUNTED]


def _reshape(operation: Operation) -> list[State]:
    """The rule of Reshape: rows stay whole if the dimensions before them keep their product."""
    operation.no_rows(1)
    rows, after = operation.rows(0), operation.grown()
    for shape, reshaped in zip(operation.inputs[0].known, operation.outputs[0].known, strict=True):
        if before(shape, rows.axis) != before(reshaped, after.axis):
            raise operation.refusal("merges rows with another dimension")
    return [after]


def _transpose(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    order = operation.axes(1) or list(reversed(range(operation.inputs[0].rank)))
    return [RowsAlong(order.index(rows.axis), rows.each)]


def _broadcast(operation: Operation) -> list[State]:
    operation.no_rows(1, 2)
    data, out = operation.inputs[0], operation.outputs[0]
    mode = operation.attributes.get("mode")
    if isinstance(data.state, RowsAlong):
        if mode == "explicit":
            return [RowsAlong(operation.values(2)[data.state.axis], data.state.each)]
        if mode in ("numpy", "bidirectional"):
            return [RowsAlong(out.rank - data.rank + data.state.axis, data.state.each)]
    if data.state is FREE and mode in ("numpy", "bidirectional"):
        return [operation.grown()]  # the same data for all rows
    raise operation.refusal(f"broadcasts in mode {mode}, which is not known to keep rows apart")


def _tile(operation: Operation) -> list[State]:
    operation.no_rows(1)
    data, out = operation.inputs[0], operation.outputs[0]
    if isinstance(data.state, RowsAlong):
        axis = out.rank - data.rank + data.state.axis
        if not operation.unmoved(data.state.axis, axis):
            raise operation.refusal("repeats rows along their own axis")
        return [RowsAlong(axis, data.state.each)]
    if data.state is not FREE:
        raise operation.refusal("takes the number of rows as a value")
    rows = operation.grown()
    axis = rows.axis - out.rank + data.rank
    if axis >= 0 and rows.each % (data.shape[axis] or 1):
        raise operation.refusal("repeats a part of its input for each row")
    return [rows]


def _concat(operation: Operation) -> list[State]:
    _, rows = next(operation.with_rows())
    if any(port.state != rows for port in operation.inputs):
        raise operation.refusal("joins rows with an input that has none there")
    if operation.axis(operation.attributes["axis"]) == rows.axis:
        raise operation.across
    return [rows]


def _split(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    if rows.axis in operation.axes(1):
        raise operation.across
    return [rows] * len(operation.outputs)


def _gather(operation: Operation) -> list[State]:
    data, indices = operation.inputs[0].state, operation.inputs[1].state
    operation.only_rows(0, 1)
    (axis,) = operation.axes(2)
    shared = operation.attributes.get("batch_dims", 0)
    shared = operation.axis(shared, 1)
    if isinstance(indices, RowsAlong) and data is FREE and indices.axis >= shared:
        return [RowsAlong(axis + indices.axis - shared, indices.each)]
    if isinstance(data, RowsAlong) and indices == data and data.axis < shared:
        return [data]
    if isinstance(data, RowsAlong) and indices is FREE and data.axis != axis:
        gained = operation.inputs[1].rank - shared - 1 if data.axis > axis else 0
        return [RowsAlong(data.axis + gained, data.each)]
    raise operation.across


def _gather_elements(operation: Operation) -> list[State]:
    rows = operation.rows(1)
    same = operation.inputs[0].state == rows
    if not same or operation.axis(operation.attributes["axis"]) == rows.axis:
        raise operation.across
    return [rows]


def _gather_nd(operation: Operation) -> list[State]:
    data, rows = operation.inputs[0].state, operation.rows(1)
    shared = operation.attributes.get("batch_dims", 0)
    if data is FREE and not shared and rows.axis < operation.inputs[1].rank - 1:
        return [rows]
    if data == rows and rows.axis == 0 and shared == 1:
        return [rows]
    raise operation.across


def _scatter_elements(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0, 1, 2)
    same = all(port.state == rows for port in operation.inputs[:3])
    if not same or rows.axis in operation.axes(3):
        raise operation.across
    return [rows]


def _slice(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.no_rows(2)
    starts, steps = operation.values(1), operation.values(3)
    named = operation.axes(4) if len(operation.inputs) > 4 else list(range(len(starts)))
    for start, step, axis in zip(starts, steps, named, strict=True):
        if axis == rows.axis and (start, step) != (0, 1):
            raise operation.across
    if not operation.unmoved(rows.axis, rows.axis):
        raise operation.across
    return [rows]


def _strided_slice(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.no_rows(2)
    begins = operation.values(1)
    steps = operation.values(3) if len(operation.inputs) > 3 else [1] * len(begins)
    marks = {
        mark: {i for i, set_ in enumerate(operation.attributes[f"{mark}_mask"]) if set_}
        for mark in ("begin", "new_axis", "shrink_axis", "ellipsis")
    }
    plain = len(begins) - len(marks["new_axis"]) - len(marks["ellipsis"])
    axis = after = 0
    for i, (begin, step) in enumerate(zip(begins, steps, strict=True)):
        if i in marks["ellipsis"]:
            covered = operation.inputs[0].rank - plain
            if axis <= rows.axis < axis + covered:
                after += rows.axis - axis
                break
            axis, after = axis + covered, after + covered
        elif i in marks["new_axis"]:
            after += 1
        elif axis == rows.axis:
            if i in marks["shrink_axis"] or step != 1 or (begin and i not in marks["begin"]):
                raise operation.across
            break
        else:
            axis, after = axis + 1, after + (i not in marks["shrink_axis"])
    else:
        after += rows.axis - axis
    if after >= operation.outputs[0].rank or not operation.unmoved(rows.axis, after):
        raise operation.across
    return [RowsAlong(after, rows.each)]


def _pad(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    if operation.values(1)[rows.axis] or operation.values(2)[rows.axis]:
        raise operation.across
    return [rows]


def _interpolate(operation: Operation) -> list[State]:
    """Along the rows only where it is the identity there, as exported models have it."""
    rows, attributes = operation.rows(0), operation.attributes
    by_scales = attributes.get("shape_calculation_mode") == "scales"
    sizes_and_scales = 3 if operation.version == "opset4" else 2
    scales = sizes_and_scales - 1
    operation.no_rows(*range(1, len(operation.inputs)))
    if by_scales and operation.inputs[scales].constant is None:
        raise operation.refusal("has scales that are no constants")
    if "axes" in attributes:
        axes = [operation.axis(axis) for axis in attributes["axes"]]
    elif len(operation.inputs) > sizes_and_scales:
        axes = operation.axes(sizes_and_scales)
    else:
        axes = list(range(operation.inputs[0].rank))
    if rows.axis in axes and not _identity(
        operation, rows.axis, scales if by_scales else None, axes.index(rows.axis)
    ):
        raise operation.across
    for pads in (attributes.get("pads_begin", []), attributes.get("pads_end", [])):
        if any(pads[rows.axis : rows.axis + 1]):
            raise operation.across
    return [rows]


def _identity(operation: Operation, axis: int, scales: int | None, place: int) -> bool:
    """Whether an Interpolate changes nothing along this axis, whose scale is at `place`."""
    shifted = operation.attributes.get("coordinate_transformation_mode", "tf_half_pixel_for_nn")
    if shifted == "tf_half_pixel_for_nn" or operation.attributes.get("antialias"):
        return False
    constant = None if scales is None else operation.inputs[scales].constant
    if constant is not None and float(constant().ravel()[place]) != 1:
        return False
    return operation.unmoved(axis, axis)


def _one_hot(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    axis: int = operation.attributes["axis"]
    axis = axis % (operation.inputs[0].rank + 1) if axis < 0 else axis
    return [RowsAlong(rows.axis + (axis <= rows.axis), rows.each)]


def _roll(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    if rows.axis in operation.axes(2):
        raise operation.across
    return [rows]


def _reverse_sequence(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    of_rows = operation.axis(operation.attributes["batch_axis"])
    reversed_axis = operation.axis(operation.attributes["seq_axis"])
    lengths = RowsAlong(0, rows.each)
    if (of_rows, operation.inputs[1].state) != (rows.axis, lengths) or reversed_axis == rows.axis:
        raise operation.across
    return [rows]


LAYOUT_RULES: Final[Mapping[str, Rule]] = {
    "ShapeOf": _shape_of,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Broadcast": _broadcast,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "VariadicSplit": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElementsUpdate": _scatter_elements,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Pad": _pad,
    "Interpolate": _interpolate,
    "OneHot": _one_hot,
    "Roll": _roll,
    "ReverseSequence": _reverse_sequence,
}
