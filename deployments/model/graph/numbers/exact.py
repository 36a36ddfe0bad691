"""Computes a small model's graph in the types that it declares, operation by operation.

numpy computes the operations that OpenVINO's own reference lacks or might round. The reference
computes only operations that are known to size their outputs: MaxPool, for one, writes past the end
of the given memory (OpenVINO 2026.4.1).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import openvino as ov

from deployments.tensors import Array

_MOST_NODES: Final = 256
_MOST_BYTES: Final = 1 << 20
_PLAIN: Final = {
    "boolean",
    "u8",
    "u16",
    "u32",
    "u64",
    "i8",
    "i16",
    "i32",
    "i64",
    "f16",
    "f32",
    "f64",
}


_SIZED_BY_THE_REFERENCE: Final = frozenset(
    [
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Broadcast", "Ceiling", "Concat"),
        *("Cos", "Cosh", "Equal", "Erf", "Exp", "Floor", "Gather", "Greater", "GreaterEqual"),
        *("Less", "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "LogicalXor"),
        *("NonZero", "NotEqual", "OneHot", "Pad", "Range", "ReduceLogicalAnd", "Reshape", "Round"),
        *("ScatterElementsUpdate", "ScatterNDUpdate", "ScatterUpdate", "Select", "ShapeOf"),
        *("ShuffleChannels", "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "SoftSign", "Split"),
        *("Sqrt", "Squeeze", "StridedSlice", "Tan", "Tanh", "Tile", "TopK", "Transpose"),
        *("Unsqueeze", "VariadicSplit"),
    ]
)
"""Operations tried with empty output tensors, of other shapes than theirs, in OpenVINO 2026.4.1."""


class NotExact(Exception):
    """Raised when this module cannot compute an exact answer."""


def small_enough(model: ov.Model) -> bool:
    """Whether the model is small enough to compute here quickly."""
    nodes = model.get_ordered_ops()
    constants = (node for node in nodes if node.get_type_name() == "Constant")
    plain = all(
        port.get_element_type().get_type_name() in _PLAIN for n in nodes for port in n.outputs()
    )
    return (
        plain
        and len(nodes) <= _MOST_NODES
        and not model.get_sinks()
        and sum(node.get_byte_size() for node in constants) <= _MOST_BYTES
    )


def computed(nodes: Sequence[Any], given: Mapping[str, Array]) -> dict[tuple[str, int], Array]:
    """The values of all outputs of the ordered nodes, from those `given` by parameter name.

    Raises NotExact.
    """
    values: dict[tuple[str, int], Array] = {}
    with np.errstate(all="ignore"):
        for node in nodes:
            inputs = [values[source(port)] for port in node.inputs()]
            for position, array in enumerate(_outputs(node, inputs, given)):
                values[node.get_name(), position] = array
    return values


def source(port: Any) -> tuple[str, int]:
    """The source of an input's values: the node's name and the index of its output."""
    output = port.get_source_output()
    return output.get_node().get_name(), output.get_index()


def _outputs(node: Any, inputs: list[Array], given: Mapping[str, Array]) -> list[Array]:
    kind = node.get_type_name()
    if kind == "Parameter":
        return [given[node.get_name()]]
    if kind == "Constant":
        return [np.array(node.data)]
    if kind == "Result":
        return inputs
    if kind in _BY_NUMPY and _broadcasts_as_numpy(node):
        dtype = node.get_output_element_type(0).to_dtype()
        return [by_numpy(node, inputs).astype(dtype)]
    if kind in _FLOATS_BY_NUMPY and inputs[0].dtype.kind == "f":
        return [np.asarray(_FLOATS_BY_NUMPY[kind](inputs[0]))]
    return _referenced(node, inputs)


def _broadcasts_as_numpy(node: Any) -> bool:
    return node.get_attributes().get("auto_broadcast", "numpy") in ("numpy", "none")


def by_numpy(node: Any, inputs: Sequence[Array]) -> Array:
    """Computes a node by numpy. Raises NotExact."""
    try:
        return np.asarray(_BY_NUMPY[node.get_type_name()](node, *inputs))
    except (ValueError, IndexError, ArithmeticError) as error:
        raise NotExact(str(error)) from error


def _referenced(node: Any, inputs: Sequence[Array]) -> list[Array]:
    if node.get_type_name() not in _SIZED_BY_THE_REFERENCE:
        raise NotExact(node.get_type_name())
    outputs = [ov.Tensor(port.get_element_type(), ov.Shape([0])) for port in node.outputs()]
    try:
        done = node.evaluate(outputs, [ov.Tensor(np.array(array, order="C")) for array in inputs])
    except Exception as error:  # OpenVINO's may be any
        raise NotExact(str(error)) from error
    if not done:
        raise NotExact(node.get_type_name())
    return [np.array(output.data) for output in outputs]


def _convert(node: Any, x: Array) -> Array:
    """Converts an array. Raises NotExact for a number that the type cannot hold."""
    dtype = node.get_output_element_type(0).to_dtype()
    if x.dtype.kind == "f" and dtype.kind in "iu":
        ends = np.iinfo(dtype)
        if not np.all((np.trunc(x) >= float(ends.min)) & (np.trunc(x) < float(ends.max) + 1)):
            raise NotExact("a number that the integer type does not hold")
    return x.astype(dtype)


def _divide(node: Any, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if not np.all(b):
        raise NotExact("an integer divided by zero")
    if node.get_attributes().get("m_pythondiv", True):
        return np.asarray(a // b)
    return np.asarray((a - np.fmod(a, b)) // b)


def _modulo(of: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def computed(_: Any, a: Array, b: Array) -> Any:
        if a.dtype.kind in "iu" and not np.all(b):
            raise NotExact("an integer divided by zero")
        return of(a, b)

    return computed


def _power(_: Any, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and np.any(b < 0):
        raise NotExact("an integer to a negative power")
    return np.asarray(a**b)


def _cum_sum(node: Any, x: Array, axis: Array) -> Array:
    asked, along = node.get_attributes(), int(axis.ravel()[0])
    turned = np.flip(x, along) if asked["reverse"] else x
    sums = np.cumsum(turned, along, dtype=x.dtype)
    if asked["exclusive"]:
        sums -= turned
    return np.flip(sums, along) if asked["reverse"] else sums


def _reduced(of: Callable[..., Any]) -> Callable[..., Any]:
    def computed(node: Any, x: Array, axes: Array) -> Any:
        along = tuple(map(int, axes.ravel()))
        return of(x, along, bool(node.get_attributes()["keep_dims"]))

    return computed


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> Any:
    if x.dtype.kind == "f":
        return np.mean(x, axes, keepdims=keep)
    sums = np.sum(x, axes, dtype=x.dtype, keepdims=keep)
    count = x.size // max(1, sums.size)
    return (sums - np.fmod(sums, count)) // count


def _mat_mul(node: Any, a: Array, b: Array) -> Array:
    asked = node.get_attributes()
    if asked["transpose_a"] and a.ndim > 1:
        a = np.swapaxes(a, -1, -2)
    if asked["transpose_b"] and b.ndim > 1:
        b = np.swapaxes(b, -1, -2)
    return np.asarray(a @ b)


def _einsum(node: Any, *inputs: Array) -> Array:
    return np.asarray(np.einsum(node.get_attributes()["equation"], *inputs))


def _prelu(_: Any, x: Array, slope: Array) -> Array:
    """PReLU, with a slope for each channel or as numpy broadcasts (OpenVINO opset 1, PReLU)."""
    if slope.ndim == 1 and slope.size > 1 and x.ndim > 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return np.asarray(np.where(x < 0, x * slope, x))


def _bags(_: Any, table: Array, indices: Array, *weights: Array) -> Array:
    rows = table[indices]
    if weights:
        rows = rows * weights[0].reshape(*indices.shape, *[1] * (table.ndim - 1))
    return np.asarray(np.sum(rows, 1, dtype=table.dtype))


def _reversed(node: Any, x: Array, lengths: Array) -> Array:
    asked = node.get_attributes()
    rows = np.moveaxis(x, (asked["batch_axis"], asked["seq_axis"]), (0, 1)).copy()
    for row, length in zip(rows, map(int, lengths), strict=True):
        row[:length] = row[:length][::-1].copy()
    return np.moveaxis(rows, (0, 1), (asked["batch_axis"], asked["seq_axis"]))


def _rolled(_: Any, x: Array, shift: Array, axes: Array) -> Array:
    along = tuple(map(int, axes.ravel()))
    by = np.broadcast_to(shift.ravel(), len(along))
    return np.roll(x, tuple(map(int, by)), along)


def _clamp(node: Any, x: Array) -> Array:
    low, high = node.get_attributes()["min"], node.get_attributes()["max"]
    if x.dtype.kind in "iu":
        ends = np.iinfo(x.dtype)
        low, high = int(max(low, ends.min)), int(min(high, ends.max))
    return np.clip(x, low, high)


_BY_NUMPY: Final[dict[str, Callable[..., Any]]] = {
    "Add": lambda _, a, b: a + b,
    "Subtract": lambda _, a, b: a - b,
    "Multiply": lambda _, a, b: a * b,
    "Divide": _divide,
    "FloorMod": _modulo(np.mod),
    "Mod": _modulo(np.fmod),
    "Power": _power,
    "Abs": lambda _, x: np.abs(x),
    "Negative": lambda _, x: -x,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Clamp": _clamp,
    "Convert": _convert,
    "ConvertLike": lambda node, x, _: _convert(node, x),
    "Identity": lambda _, x: x,
    "BitwiseAnd": lambda _, a, b: a & b,
    "BitwiseLeftShift": lambda _, a, b: a << b,
    "BitwiseNot": lambda _, x: ~x,
    "BitwiseOr": lambda _, a, b: a | b,
    "BitwiseRightShift": lambda _, a, b: a >> b,
    "BitwiseXor": lambda _, a, b: a ^ b,
    "Einsum": _einsum,
    "EmbeddingBagPackedSum": _bags,
    "PRelu": _prelu,
    "ReverseSequence": _reversed,
    "Roll": _rolled,
    "GatherElements": lambda node, x, places: np.take_along_axis(
        x, places, node.get_attributes()["axis"]
    ),
    "Maximum": lambda _, a, b: np.maximum(a, b),
    "Minimum": lambda _, a, b: np.minimum(a, b),
    "SquaredDifference": lambda _, a, b: (a - b) * (a - b),
    "CumSum": _cum_sum,
    "MatMul": _mat_mul,
    "ReduceSum": _reduced(lambda x, axes, keep: np.sum(x, axes, dtype=x.dtype, keepdims=keep)),
    "ReduceProd": _reduced(lambda x, axes, keep: np.prod(x, axes, dtype=x.dtype, keepdims=keep)),
    "ReduceL1": _reduced(
        lambda x, axes, keep: np.sum(np.abs(x), axes, dtype=x.dtype, keepdims=keep)
    ),
    "ReduceMax": _reduced(lambda x, axes, keep: np.max(x, axes, keepdims=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: np.min(x, axes, keepdims=keep)),
    "ReduceMean": _reduced(_mean),
}
_FLOATS_BY_NUMPY: Final[dict[str, Callable[[Array], Any]]] = {
    "Ceiling": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
}
"""OpenVINO has no reference of these for FP64."""
