"""Rules for operations that compute: where the rows are afterwards. See `row_layout`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from deployments.model.row_layout import LAYOUT_RULES, Rule
from deployments.model.row_operation import COUNTED, FREE, Operation, State
from deployments.model.stacking import Detections, RowsAlong

_ELEMENTWISE: Final = """
    Abs Acos Acosh Add Asin Asinh Atan Atanh BitwiseAnd BitwiseLeftShift BitwiseNot BitwiseOr
    BitwiseRightShift BitwiseXor Ceiling Clamp Convert Cos Cosh Divide Elu Equal Erf Exp Floor
    FloorMod Gelu Greater GreaterEqual HSigmoid HSwish HardSigmoid Identity IsFinite IsInf IsNaN
    Less LessEqual Log LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mish Mod Multiply
    Negative NotEqual Power Relu Round Select Selu Sigmoid Sign Sin Sinh SoftPlus SoftSign Sqrt
    SquaredDifference Subtract Swish Tan Tanh Xor
""".split()
_REDUCING: Final = """
    ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum
""".split()
_BY_IMAGE: Final = {
    "AdaptiveAvgPool": 1,
    "AvgPool": 1,
    "BinaryConvolution": 1,
    "Convolution": 1,
    "ConvolutionBackpropData": 1,
    "DepthToSpace": 1,
    "ExtractImagePatches": 1,
    "GRUCell": 2,
    "GRUSequence": 3,
    "GridSample": 2,
    "GroupConvolution": 1,
    "GroupConvolutionBackpropData": 1,
    "GroupNormalization": 1,
    "LSTMCell": 3,
    "LSTMSequence": 4,
    "RNNCell": 2,
    "RNNSequence": 3,
    "ReorgYolo": 1,
    "SpaceToDepth": 1,
}
"""How many of the first inputs have the rows in front; all others are the same for all rows."""
_OF_SHAPES: Final = {"Eye", "PriorBox", "PriorBoxClustered", "Range"}
"""Known, but only of what holds no rows."""


def elementwise(operation: Operation) -> list[State]:
    if operation.attributes.get("auto_broadcast", "numpy") not in ("numpy", "none"):
        raise operation.refusal("broadcasts in a way that is not known")
    places = set()
    for position, rows in operation.with_rows():
        places.add((operation.inputs[position].rank - rows.axis, rows.each))
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    if len(places) > 1:
        raise operation.refusal("broadcasts rows against rows")
    ((from_behind, each),) = places
    return [RowsAlong(operation.outputs[0].rank - from_behind, each)]


def _first_only(operation: Operation) -> list[State]:
    rows = operation.rows(0)
    operation.only_rows(0)
    return [rows] * len(operation.outputs)


def _like(operation: Operation) -> list[State]:
    return [operation.inputs[0].state]  # of the other input only the datatype matters


def _reduce(operation: Operation) -> list[State]:
    (rows,) = _first_only(operation)
    assert isinstance(rows, RowsAlong)
    axes = set(operation.axes(1))
    if rows.axis in axes:
        raise operation.across
    gone = 0 if operation.attributes["keep_dims"] else sum(axis < rows.axis for axis in axes)
    return [RowsAlong(rows.axis - gone, rows.each)]


def _along_attribute(operation: Operation) -> list[State]:
    """Works along the axis that an attribute names."""
    states = _first_only(operation)
    if operation.axis(operation.attributes["axis"]) == operation.rows(0).axis:
        raise operation.across
    return states


def _along_input(operation: Operation, complex_pairs: int = 0) -> list[State]:
    """Works along the axes that input 1 names; real and imaginary parts are no axis of them."""
    states = _first_only(operation)
    rank = operation.inputs[0].rank - complex_pairs
    if operation.rows(0).axis in [axis % rank for axis in operation.values(1)]:
        raise operation.across
    return states


def _mvn(operation: Operation) -> list[State]:
    if "across_channels" not in operation.attributes:
        return _along_input(operation)
    if 0 in operation.attributes.get("reduction_axes", ()):
        raise operation.across
    return _by_image(operation, 1)


def _by_image(operation: Operation, count: int) -> list[State]:
    rows = operation.rows(0)
    for position in range(count):
        if position < len(operation.inputs) and operation.rows(position) != rows:
            raise operation.refusal("takes rows of one against rows of another")
    operation.only_rows(*range(count))
    if rows.axis != 0:
        raise operation.across
    return [rows] * len(operation.outputs)


def _planes(operation: Operation) -> list[State]:
    return _by_image(operation, len(operation.inputs))


def _embedding_bags(operation: Operation) -> list[State]:
    """A table, and of each row what to add up of it, perhaps with weights."""
    rows = operation.rows(1)
    if rows.axis != 0 or any(port.state != rows for port in operation.inputs[1:]):
        raise operation.across
    operation.only_rows(1, 2)
    return [rows]


def _deformable(operation: Operation) -> list[State]:
    """Data, offsets, filters and perhaps a mask."""
    rows, by_rows = operation.rows(0), (0, 1, 3)[: len(operation.inputs) - 1]
    operation.only_rows(*by_rows)
    if rows.axis != 0 or any(operation.rows(position) != rows for position in by_rows):
        raise operation.across
    return [rows]


def _max_pool(operation: Operation) -> list[State]:
    """The places that it gives too may count from the first row on."""
    if any(port.used for port in operation.outputs[1:]):
        raise operation.refusal("gives places that count across rows")
    return _by_image(operation, 1)


def _off_images(operation: Operation) -> list[State]:
    if operation.axis(operation.attributes.get("axis", 1)) == 0:
        raise operation.across
    return _by_image(operation, 1)


def _channels(operation: Operation) -> list[State]:
    """One number for each place along dimension 1, in the other inputs."""
    ((position, rows),) = _single(operation)
    if operation.inputs[position].rank < 2 or rows.axis == 1:
        raise operation.across
    return [rows]


def _single(operation: Operation) -> list[tuple[int, RowsAlong]]:
    found = list(operation.with_rows())
    if len(found) != 1:
        raise operation.refusal("takes rows of one against rows of another")
    operation.only_rows(found[0][0])
    return found


def _matmul(operation: Operation) -> list[State]:
    """The rows are in front of both matrices, or run down the first or along the second."""
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
            raise operation.across  # summed over
        places.add((from_behind, rows.each))
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    both = isinstance(left.state, RowsAlong) and isinstance(right.state, RowsAlong)
    if len(places) > 1 or (both and min(places)[0] <= 2):
        raise operation.refusal("multiplies rows by rows")
    ((from_behind, each),) = places
    gone = (right.rank == 1 and from_behind > 1) + (left.rank == 1 and from_behind > 2)
    return [RowsAlong(operation.outputs[0].rank - from_behind + gone, each)]


def _attention(operation: Operation) -> list[State]:
    """Query, key, value, perhaps a mask and a scale: rows are in front of the last two."""
    for position, rows in operation.with_rows():
        if operation.inputs[position].rank - rows.axis <= 2 or position > 3:
            raise operation.across
    return elementwise(operation)


def _einsum(operation: Operation) -> list[State]:
    terms, _, result = operation.attributes["equation"].replace(" ", "").partition("->")
    if "." in terms or not result:
        raise operation.refusal("has an equation that is not known")
    named = terms.split(",")
    labels = {(named[position][rows.axis], rows.each) for position, rows in operation.with_rows()}
    operation.only_rows(*(position for position, _ in operation.with_rows()))
    if len(labels) > 1:
        raise operation.refusal("multiplies rows by rows")
    ((label, each),) = labels
    if result.count(label) != 1 or any(term.count(label) > 1 for term in named):
        raise operation.across
    return [RowsAlong(result.index(label), each)]


def _prelu(operation: Operation) -> list[State]:
    (rows,) = _first_only(operation)
    assert isinstance(rows, RowsAlong)
    slopes = operation.inputs[1].shape
    if len(slopes) == 1 and slopes != (1,) and rows.axis == 1:
        raise operation.across
    return [rows]


def _detection_output(operation: Operation) -> list[State]:
    """Takes images apart itself; priors are one for all images, or one for each."""
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


def _of_shapes(operation: Operation) -> list[State]:
    raise operation.refusal("takes values of rows")


RULES: Final[Mapping[str, Rule]] = {
    **LAYOUT_RULES,
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_REDUCING, _reduce),
    **{kind: partial(_by_image, count=count) for kind, count in _BY_IMAGE.items()},
    **dict.fromkeys(_OF_SHAPES, _of_shapes),
    **dict.fromkeys(("I420toBGR", "I420toRGB", "NV12toBGR", "NV12toRGB"), _planes),
    "BatchNormInference": _channels,
    "Bucketize": _first_only,
    "ConvertLike": _like,
    "CumSum": _along_input,
    "DFT": partial(_along_input, complex_pairs=1),
    "DeformableConvolution": _deformable,
    "DetectionOutput": _detection_output,
    "Einsum": _einsum,
    "EmbeddingBagPackedSum": _embedding_bags,
    "FakeConvert": _first_only,
    "FakeQuantize": _first_only,
    "GRN": _channels,
    "IDFT": partial(_along_input, complex_pairs=1),
    "LRN": _along_input,
    "LogSoftmax": _along_attribute,
    "MVN": _mvn,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "NormalizeL2": _along_input,
    "PRelu": _prelu,
    "RDFT": _along_input,
    "IRDFT": partial(_along_input, complex_pairs=1),
    "RegionYolo": _off_images,
    "Result": _first_only,
    "ScaledDotProductAttention": _attention,
    "ShuffleChannels": _off_images,
    "Softmax": _along_attribute,
    "TopK": _along_attribute,
}
_REPEATING: Final = ("Broadcast", "Tile")


def states_after(operation: Operation) -> list[State]:
    """What the outputs hold. Raises NotProven unless they keep rows apart."""
    rule = RULES.get(operation.kind)
    if rule is None:
        raise operation.not_known
    operation.check_sizes()
    states = _states(operation, rule)
    operation.check(states)
    return states


def _states(operation: Operation, rule: Callable[[Operation], list[State]]) -> list[State]:
    inputs = [port.state for port in operation.inputs]
    if operation.kind == "Result":
        return inputs
    if any(isinstance(state, Detections) for state in inputs):
        raise operation.refusal("works on what a DetectionOutput gives")
    if any(isinstance(state, RowsAlong) for state in inputs):
        return rule(operation)
    if COUNTED not in inputs:
        return [FREE] * len(operation.outputs)
    if operation.kind in _REPEATING and inputs[0] is FREE and operation.grows:
        return rule(operation)
    return [COUNTED] * len(operation.outputs)
