"""Rules for operations that compute: where the rows lie in their outputs. See `layout`."""

from deployments.model.graph.rows.operation import FREE, Operation, State
from deployments.model.graph.rows.outputs import Detections, RowsAlong


def elementwise(operation: Operation) -> list[State]:
    if operation.attributes.get("auto_broadcast", "numpy") not in ("numpy", "none"):
        raise operation.refusal("broadcasts in an unknown way")
    places = set()
    for position, rows in operation.with_rows():
        places.add((operation.inputs[position].rank - rows.axis, rows.each))
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    if len(places) > 1:
        raise operation.refusal("broadcasts rows against rows")
    ((from_behind, each),) = places
    return [RowsAlong(operation.outputs[0].rank - from_behind, each)]


def first_only(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    return [rows] * len(operation.outputs)


def like(operation: Operation) -> list[State]:
    return [operation.inputs[0].state]  # only the datatype of the other input matters


def reduce(operation: Operation) -> list[State]:
    (rows,) = first_only(operation)
    assert isinstance(rows, RowsAlong)
    axes = set(operation.axes(1))
    if rows.axis in axes:
        raise operation.across
    gone = 0 if operation.attributes["keep_dims"] else sum(axis < rows.axis for axis in axes)
    return [RowsAlong(rows.axis - gone, rows.each)]


def along_attribute(operation: Operation) -> list[State]:
    """The rule of operations along the axis that an attribute names."""
    states = first_only(operation)
    if operation.axis(operation.attributes["axis"]) == operation.rows(0).axis:
        raise operation.across
    return states


def along_input(operation: Operation, complex_pairs: int = 0) -> list[State]:
    """The rule of operations along the axes that input 1 names, not counting complex pairs."""
    states = first_only(operation)
    rank = operation.inputs[0].rank - complex_pairs
    if operation.rows(0).axis in [axis % rank for axis in operation.values(1)]:
        raise operation.across
    return states


def mvn(operation: Operation) -> list[State]:
    if "across_channels" not in operation.attributes:
        return along_input(operation)
    if 0 in operation.attributes.get("reduction_axes", ()):
        raise operation.across
    return by_image(operation, 1)


def by_image(operation: Operation, count: int) -> list[State]:
    rows = operation.rows(0)
    for position in range(count):
        if position < len(operation.inputs) and operation.rows(position) != rows:
            raise operation.refusal("combines different rows of two inputs")
    operation.only_rows(*range(count))
    if rows.axis != 0:
        raise operation.across
    return [rows] * len(operation.outputs)


def planes(operation: Operation) -> list[State]:
    return by_image(operation, len(operation.inputs))


def embedding_bags(operation: Operation) -> list[State]:
    """The rule of sums over a table's rows, by indices and perhaps weights for each row."""
    rows = operation.rows(1)
    if rows.axis != 0 or any(port.state != rows for port in operation.inputs[1:]):
        raise operation.across
    operation.only_rows(1, 2)
    return [rows]


def deformable(operation: Operation) -> list[State]:
    """The rule of deformable convolutions: data, offsets, filters and perhaps a mask."""
    rows, by_rows = operation.rows(0), (0, 1, 3)[: len(operation.inputs) - 1]
    operation.only_rows(*by_rows)
    if rows.axis != 0 or any(operation.rows(position) != rows for position in by_rows):
        raise operation.across
    return [rows]


def max_pool(operation: Operation) -> list[State]:
    """The rule of MaxPool, whose second output may be indices that count from the first row."""
    if any(port.used for port in operation.outputs[1:]):
        raise operation.refusal("gives indices that count across rows")
    return by_image(operation, 1)


def off_images(operation: Operation) -> list[State]:
    if operation.axis(operation.attributes.get("axis", 1)) == 0:
        raise operation.across
    return by_image(operation, 1)


def channels(operation: Operation) -> list[State]:
    """The rule of operations whose other inputs have one number for each channel (dimension 1)."""
    ((position, rows),) = _single(operation)
    if operation.inputs[position].rank < 2 or rows.axis == 1:
        raise operation.across
    return [rows]


def _single(operation: Operation) -> list[tuple[int, RowsAlong]]:
    found = list(operation.with_rows())
    if len(found) != 1:
        raise operation.refusal("combines different rows of two inputs")
    operation.only_rows(found[0][0])
    return found


def matmul(operation: Operation) -> list[State]:
    """The rule of MatMul: rows are in front of the matrices, or in the first's or second's axis."""
    left, right = operation.inputs
    places = set()
    for position, rows in operation.with_rows():
        port = operation.inputs[position]
        from_behind = port.rank - rows.axis
        if port.rank == 1:
            raise operation.across
        if operation.attributes["transpose_a" if position == 0 else "transpose_b"]:
            from_behind = {1: 2, 2: 1}.get(from_behind, from_behind)
        if from_behind == (1 if position == 0 else 2):
            raise operation.across  # it sums over rows
        places.add((from_behind, rows.each))
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    both = isinstance(left.state, RowsAlong) and isinstance(right.state, RowsAlong)
    if len(places) > 1 or (both and min(places)[0] <= 2):
        raise operation.refusal("multiplies rows by rows")
    ((from_behind, each),) = places
    gone = (right.rank == 1 and from_behind > 1) + (left.rank == 1 and from_behind > 2)
    return [RowsAlong(operation.outputs[0].rank - from_behind + gone, each)]


def attention(operation: Operation) -> list[State]:
    """The rule of attention, whose inputs have rows only in front of the last two axes."""
    for position, rows in operation.with_rows():
        if operation.inputs[position].rank - rows.axis <= 2 or position > 3:
            raise operation.across
    return elementwise(operation)


def einsum(operation: Operation) -> list[State]:
    terms, _, result = operation.attributes["equation"].replace(" ", "").partition("->")
    if "." in terms or not result:
        raise operation.refusal("has an equation of an unknown form")
    named = terms.split(",")
    labels = {(named[position][rows.axis], rows.each) for position, rows in operation.with_rows()}
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    if len(labels) > 1:
        raise operation.refusal("multiplies rows by rows")
    ((label, each),) = labels
    if result.count(label) != 1 or any(term.count(label) > 1 for term in named):
        raise operation.across
    return [RowsAlong(result.index(label), each)]


def prelu(operation: Operation) -> list[State]:
    (rows,) = first_only(operation)
    assert isinstance(rows, RowsAlong)
    slopes = operation.inputs[1].shape
    if len(slopes) == 1 and slopes != (1,) and rows.axis == 1:
        raise operation.across
    return [rows]


def detection_output(operation: Operation) -> list[State]:
    """The rule of DetectionOutput, which keeps images apart; priors are shared, or one for each."""
    rows = RowsAlong(0, 1)
    priors = operation.inputs[2].state
    if any(port.state != rows for i, port in enumerate(operation.inputs) if i != 2):
        raise operation.across
    if priors not in (FREE, rows) or (priors is FREE and operation.inputs[2].shape[0] != 1):
        raise operation.across
    grown = operation.grown()
    if grown.axis != 2 or operation.outputs[0].shape[-1] != 7:
        raise operation.across
    return [Detections(grown.each)]


def of_shapes(operation: Operation) -> list[State]:
    raise operation.refusal("takes values of rows")
