"""Bounds of the integers in a graph, from the least and the greatest values of its inputs.

Bounds are pairs of Python's numbers, so nothing overflows. An operation that is in no table here
has no bounds, and neither has any operation after it.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import inf, prod
from typing import Any, Final, TypeAlias

import numpy as np
import openvino as ov

Bounds: TypeAlias = tuple[float, float]
Shape: TypeAlias = tuple[int, ...]

INTEGERS: Final = {
    "u8": (0, 2**8 - 1),
    "i8": (-(2**7), 2**7 - 1),
    "u16": (0, 2**16 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "u32": (0, 2**31 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**31 - 1),
    "i64": (-(2**31), 2**31 - 1),
}
"""The range of each type in the CPU plugin, where the wide types become i32."""
WIDE: Final = frozenset({"u32", "u64", "i64"})
FLOAT32_END: Final = 2**24
"""Up to this number, float32 holds every integer."""
LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)

IN_FLOAT32: Final = frozenset(
    [
        "Clamp",
        "Divide",
        "FloorMod",
        "Interpolate",
        "MatMul",
        "MaxPool",
        "Mod",
        "Power",
        "PRelu",
        "ReduceL1",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Relu",
        "ReverseSequence",
    ]
)
"""Operations on integers that the plugin computes in float32, measured in OpenVINO 2026.4.1."""
_LARGEST_CONSTANT: Final = 1 << 20


def _corners(of: Callable[[Any, Any], Any]) -> Callable[[Bounds, Bounds], Bounds]:
    """Makes bounds for an operation that is monotone in each of its two operands."""

    def bounds(a: Bounds, b: Bounds) -> Bounds:
        found = [of(x, y) for x, y in product(a, b)]
        return min(found), max(found)

    return bounds


def _times(a: float, b: float) -> float:
    return 0 if a == 0 or b == 0 else a * b


def _around_zero(largest: float) -> Bounds:
    return -largest, largest


def magnitude(*bounds: Bounds) -> float:
    return max(max(-low, high, 0) for low, high in bounds)


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    if b[0] <= 0 <= b[1]:
        return -inf, inf  # the divisor may be zero
    found = [
        x // y if isinstance(x, int) and isinstance(y, int) else x / y for x, y in product(a, b)
    ]
    return min(found), max(found)


def _power(a: Bounds, b: Bounds) -> Bounds:
    try:
        return _around_zero(max(1, magnitude(a)) ** max(0, b[1]) if b[1] < 64 else inf)
    except OverflowError:
        return -inf, inf


def _sloped(a: Bounds, slope: Bounds) -> Bounds:
    low, high = _corners(_times)(a, slope)
    return min(a[0], low), max(a[1], high)


def _bits(a: Bounds, b: Bounds) -> Bounds:
    """Bounds of an operation on the bits of both operands: as many bits as the longer one."""
    both = magnitude(a, b)
    if both == inf:
        return -inf, inf
    largest = 2 ** int(both).bit_length()
    return (-largest if min(a[0], b[0]) < 0 else 0), largest - 1


def _shifted(left: bool) -> Callable[[Bounds, Bounds], Bounds]:
    def bounds(a: Bounds, b: Bounds) -> Bounds:
        if b[0] < 0 or b[1] > 64 or not all(isinstance(end, int) for end in a):
            return -inf, inf
        by = [2 ** int(end) for end in b]
        found = [end * size if left else end // size for end, size in product(a, by)]
        return min(found), max(found)

    return bounds


def _squared_difference(a: Bounds, b: Bounds) -> Bounds:
    farthest = max(abs(a[1] - b[0]), abs(b[1] - a[0]))
    return 0, farthest * farthest


_BINARY: Final[dict[str, Callable[[Bounds, Bounds], Bounds]]] = {
    "Add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "Subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "Multiply": _corners(_times),
    "Divide": _quotient,
    "FloorMod": lambda a, b: _around_zero(magnitude(b)),
    "Mod": lambda a, b: _around_zero(magnitude(b)),
    "Power": _power,
    "SquaredDifference": _squared_difference,
    "Maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "Minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "PRelu": _sloped,
    "BitwiseAnd": _bits,
    "BitwiseOr": _bits,
    "BitwiseXor": _bits,
    "BitwiseLeftShift": _shifted(left=True),
    "BitwiseRightShift": _shifted(left=False),
}
_UNARY: Final[dict[str, Callable[[Bounds], Bounds]]] = {
    "Abs": lambda a: (0 if a[0] <= 0 <= a[1] else min(map(abs, a)), magnitude(a)),
    "Negative": lambda a: (-a[1], -a[0]),
    "Relu": lambda a: (max(a[0], 0), max(a[1], 0)),
    "Sign": lambda a: (-1, 1),
    "Floor": lambda a: (a[0] - 1, a[1]),
    "Ceiling": lambda a: (a[0], a[1] + 1),
    "Round": lambda a: (a[0] - 1, a[1] + 1),
    "Convert": lambda a: a,
    "ConvertLike": lambda a: a,
    "Identity": lambda a: a,
    "BitwiseNot": lambda a: (-a[1] - 1, -a[0] - 1),
}
# Operations whose output numbers are those of the inputs at these positions (None: of all).
_MOVES: Final[dict[str, tuple[int, ...] | None]] = {
    **dict.fromkeys(["Broadcast", "Gather", "GatherND", "ReduceMax"], (0,)),
    **dict.fromkeys(["ReduceMean", "ReduceMin", "Reshape", "Reverse", "Roll", "Slice"], (0,)),
    **dict.fromkeys(["Split", "Squeeze", "StridedSlice", "Tile", "Transpose"], (0,)),
    **dict.fromkeys(["Unsqueeze", "VariadicSplit"], (0,)),
    **dict.fromkeys(["DepthToSpace", "GatherElements", "Interpolate", "MaxPool"], (0,)),
    **dict.fromkeys(["ReverseSequence", "ShuffleChannels", "SpaceToDepth", "TopK", "Unique"], (0,)),
    "Concat": None,
    "Pad": (0, 3),
    "Range": (0, 1),
    "ScatterElementsUpdate": (0, 2),
    "ScatterNDUpdate": (0, 2),
    "ScatterUpdate": (0, 2),
    "Select": (1, 2),
    "SliceScatter": (0, 1),
    "OneHot": (2, 3),
}
_TRUTHS: Final = frozenset(
    [
        "Equal",
        "Greater",
        "GreaterEqual",
        "Less",
        "LessEqual",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "LogicalXor",
        "NotEqual",
        "IsNaN",
        "IsInf",
    ]
)
SUMS: Final = frozenset({"CumSum", "MatMul", "ReduceL1", "ReduceProd", "ReduceSum"})
"""The operations whose bounds grow with the shape of their first input."""
ARITHMETIC: Final = (frozenset(_BINARY) | SUMS | {"Abs", "Negative", "Relu", "Clamp"}) | {
    "Interpolate", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "ReverseSequence",
}  # fmt: skip


CONVERSIONS: Final = frozenset({"Convert", "ConvertLike"})
_SEVERAL: Final = frozenset({"Split", "VariadicSplit"})


def has_bounds(port: Any) -> bool:
    """Whether the bounds of a node apply to this output; for most nodes only to the first."""
    return port.get_index() == 0 or port.get_node().get_type_name() in _SEVERAL


def known(node: Any) -> bool:
    """Whether a node has bounds, given those of the inputs that matter."""
    kind = node.get_type_name()
    if kind == "Constant":
        return constant(node) is not None
    if kind == "ShapeOf":
        return bool(node.input_value(0).get_node().get_type_name() == "Parameter")
    if kind.startswith("Scatter") and str(node.get_attributes().get("reduction", "none")) != "none":
        return False
    return kind == "Parameter" or kind in _TRUTHS or kind in _TABLES


def needed(node: Any) -> Sequence[int]:
    """The positions of the inputs whose bounds matter."""
    kind = node.get_type_name()
    if kind in _MOVES:
        positions = _MOVES[kind]
        present = range(node.get_input_size())
        return present if positions is None else [p for p in positions if p in present]
    if kind in _BINARY or kind == "MatMul":
        return (0, 1)
    return (0,) if kind in _UNARY or kind in SUMS or kind == "Clamp" else ()


_TABLES: Final = _BINARY.keys() | _UNARY.keys() | _MOVES.keys() | SUMS | {"Clamp"}


def constant(node: Any) -> Bounds | None:
    """The bounds of a constant; None if it is too large to scan."""
    if node.get_element_type() == ov.Type.string or node.get_byte_size() > _LARGEST_CONSTANT:
        return None
    if node.get_element_type().get_type_name() not in {*INTEGERS, "boolean", "f16", "f32", "f64"}:
        return None
    return ends(np.asarray(node.data))


def ends(values: Any) -> Bounds:
    """The least and the greatest value, ignoring NaN; zeros if there is none."""
    if not values.size:
        return 0, 0
    if values.dtype.kind == "f":
        low, high = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
        return (0, 0) if low != low else (low, high)
    return int(values.min()), int(values.max())


def of(node: Any) -> Callable[[Sequence[Bounds], Shape | None], Bounds]:
    """The function from the bounds of a node's needed inputs to those of its output.

    Its second argument is the first input's shape, which sums need.
    """
    kind = node.get_type_name()
    if kind in _TRUTHS:
        return lambda given, shape: (0, 1)
    if kind in SUMS:
        return _sum(kind, _summands(node))
    if kind in _BINARY:
        return lambda given, shape: _BINARY[kind](given[0], given[1])
    if kind in _UNARY:
        return lambda given, shape: _UNARY[kind](given[0])
    if kind == "Clamp":
        asked = node.get_attributes()
        return lambda given, shape: _clamped(given[0], asked["min"], asked["max"])
    return lambda given, shape: (min(low for low, _ in given), max(high for _, high in given))


def _clamped(found: Bounds, low: float, high: float) -> Bounds:
    return min(max(found[0], low), high), max(min(found[1], high), low)


def _sum(
    kind: str, summands: Callable[[Shape], float]
) -> Callable[[Sequence[Bounds], Shape | None], Bounds]:
    def bounds(given: Sequence[Bounds], shape: Shape | None) -> Bounds:
        count = inf if shape is None else summands(shape)
        if kind == "MatMul":
            return _around_zero(_times(count, _times(magnitude(given[0]), magnitude(given[1]))))
        if kind == "ReduceProd":
            return _around_zero(_to_the(max(1, magnitude(given[0])), count))
        if kind == "ReduceL1":
            return 0, _times(count, magnitude(given[0]))
        low, high = given[0]
        return min(0, _times(low, count)), max(0, _times(high, count))

    return bounds


def _to_the(largest: float, count: float) -> float:
    if largest == 1:
        return 1
    try:
        return largest ** int(count) if count < 64 else inf
    except OverflowError:
        return inf


def _summands(node: Any) -> Callable[[Shape], float]:
    """The function from a shape to the largest number of summands in one sum."""
    if node.get_type_name() == "MatMul":
        turned = node.get_attributes()["transpose_a"]
        return lambda shape: shape[-2 if turned and len(shape) > 1 else -1] if shape else 1
    axes = node.input_value(1).get_node()
    if axes.get_type_name() != "Constant":
        return prod
    along = set(map(int, axes.data.ravel()))
    return lambda shape: prod(shape[axis] for axis in along)


def limit(node: Any) -> Bounds | None:
    """The device's range for the inputs and outputs of an integer operation.

    None if the device computes as the declared type does.
    """
    declared = node.get_output_element_type(0).get_type_name()
    if declared not in INTEGERS:
        return None
    low, high = INTEGERS[declared]
    if node.get_type_name() in IN_FLOAT32:
        return max(low, -FLOAT32_END), min(high, FLOAT32_END)
    return None if declared == "i32" else (low, high)


def wrapped(type_: Bounds, found: Bounds) -> Bounds:
    """The bounds after wrapping into a type with these ends."""
    return found if beyond(type_, [found]) is None else type_


def rounds_down(node: Any) -> bool:
    """Whether a node divides integers as Python does, rounding down."""
    if node.get_output_element_type(0).get_type_name() not in INTEGERS:
        return False
    return node.get_type_name() == "Divide" and bool(node.get_attributes().get("m_pythondiv", True))


def beyond(limits: Bounds, found: Sequence[Bounds]) -> float | None:
    """An end of these bounds outside the limits; None if all are inside."""
    for low, high in found:
        if low < limits[0]:
            return low
        if high > limits[1]:
            return high
    return None
