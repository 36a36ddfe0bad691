"""Small models, built in code, each with one difficulty."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

DATATYPES = {
    "BOOL": ov.Type.boolean,
    "UINT8": ov.Type.u8,
    "UINT16": ov.Type.u16,
    "UINT32": ov.Type.u32,
    "UINT64": ov.Type.u64,
    "INT8": ov.Type.i8,
    "INT16": ov.Type.i16,
    "INT32": ov.Type.i32,
    "INT64": ov.Type.i64,
    "FP16": ov.Type.f16,
    "BF16": ov.Type.bf16,
    "FP32": ov.Type.f32,
    "FP64": ov.Type.f64,
    "BYTES": ov.Type.string,
}


def model(*outputs: Any, inputs: Sequence[Any], name: str = "m") -> ov.Model:
    """A model with these `outputs`, each a (node, name)."""
    results = []
    for node, output_name in outputs:
        output = node if isinstance(node, ov.Output) else node.output(0)
        output.set_names({output_name})
        results.append(ops.result(output))
    return ov.Model(results, list(inputs), name)


def parameter(shape: Sequence[Any], datatype: ov.Type = ov.Type.f32, name: str = "x") -> Any:
    node = ops.parameter(ov.PartialShape(list(shape)), datatype, name=name)
    node.output(0).set_names({name})
    return node


def add_one(shape: Sequence[Any] = (1, 4), datatype: ov.Type = ov.Type.f32) -> ov.Model:
    """x + 1, for BOOL its negation, for strings x itself; of any rank."""
    x = parameter(shape, datatype)
    return model((_one_more(x, datatype), "y"), inputs=[x])


def _one_more(x: Any, datatype: ov.Type) -> Any:
    if datatype == ov.Type.boolean:
        return ops.logical_not(x)
    if datatype == ov.Type.string:
        return ops.squeeze(ops.unsqueeze(x, [0]), [0])
    return ops.add(x, ops.constant(1, datatype))


def every_datatype() -> ov.Model:
    """An input [N,4] of each datatype, named after it, with the operation of `add_one`."""
    inputs = [parameter([1, 4], datatype, name) for name, datatype in DATATYPES.items()]
    outputs = [
        (_one_more(x, datatype), f"{name}+1")
        for x, (name, datatype) in zip(inputs, DATATYPES.items(), strict=True)
    ]
    return model(*outputs, inputs=inputs)


def agreeing(shape: Sequence[Any] = (1, 4), datatype: ov.Type = ov.Type.f32) -> ov.Model:
    """a + b, which must have the same shape."""
    a, b = parameter(shape, datatype, "a"), parameter(shape, datatype, "b")
    return model((ops.add(a, b, auto_broadcast="NONE"), "y"), inputs=[a, b])


def summed() -> ov.Model:
    """The sum over all columns of each row of x."""
    x = parameter((1, 4))
    return model((ops.reduce_sum(x, [1], keep_dims=True), "y"), inputs=[x])


def scaled() -> ov.Model:
    """Pictures [N,C,L], each channel times its scale [N,C]: two inputs of different ranks."""
    x, scale = parameter([1, 3, 4]), parameter([1, 3], name="scale")
    return model((ops.multiply(x, ops.unsqueeze(scale, [2])), "y"), inputs=[x, scale])


def scaled_by_scalar() -> ov.Model:
    x, scale = parameter([1, 4]), parameter([], name="scale")
    return model((ops.multiply(x, scale), "y"), inputs=[x, scale])


def fixed_batch() -> ov.Model:
    """[4,6] to [4,2,3], a shape that is fixed in the model."""
    x = parameter([4, 6])
    return model((ops.reshape(x, [4, 2, 3], special_zero=False), "y"), inputs=[x])


def two_rows() -> ov.Model:
    """[2,L] to [1,2L]: the number of rows is fixed in the model, their length is open."""
    x = parameter([2, 4])
    rows = ops.variadic_split(x, ops.constant(0), ops.constant([1, 1])).outputs()
    return model((ops.concat(rows, 1), "y"), inputs=[x])


def strings_and_lengths() -> ov.Model:
    """Strings [N,M], unchanged, and the number of bytes of each."""
    words = parameter([-1, -1], ov.Type.string, "words")
    begins, ends, _ = ops.string_tensor_unpack(words).outputs()
    return model((words, "words"), (ops.subtract(ends, begins), "lengths"), inputs=[words])


def running_total() -> ov.Model:
    """x [N,4] plus the earlier inputs of the infer request: a model with a state."""
    x = parameter([-1, 4])
    before = ops.read_value(ops.subtract(x, x), "total", ov.Type.f32, [-1, 4])
    y = ops.add(x, before)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [ops.assign(y, "total")], [x], "m")


def outputs_of_all_kinds() -> ov.Model:
    """Outputs for [N,4]: the rows, their transpose, two rows for each, their mean, a constant."""
    x = parameter([1, 4])
    return model(
        (ops.relu(x), "rows"),
        (ops.transpose(x, [1, 0]), "columns"),
        (ops.reshape(x, [-1, 2], special_zero=False), "halves"),
        (ops.reduce_mean(x, [0], keep_dims=False), "mean"),
        (ops.constant(np.arange(3, dtype=np.float32)), "constant"),
        inputs=[x],
    )


def outputs_with_rows() -> ov.Model:
    """Outputs for [N,4]: the rows, their transpose and two rows for each."""
    x = parameter([1, 4])
    return model(
        (ops.relu(x), "rows"),
        (ops.transpose(ops.relu(x), [1, 0]), "columns"),
        (ops.reshape(ops.relu(x), [-1, 2], special_zero=False), "halves"),
        inputs=[x],
    )


def pooled(least: int = 5, layers: int = 12) -> ov.Model:
    """For [N,1,L], the maxima of every `least` numbers in a row, so L must be at least that.

    The node that requires it is the last of so many that OpenVINO divides the work on them.
    """
    x = parameter([1, 1, 8])
    y, same = x, np.array([[[0, 1, 0]]], np.float32)
    for _ in range(layers):
        y = ops.relu(ops.convolution(y, same, [1], [1], [1], [1]))
    return model((ops.max_pool(y, [1], [1], [0], [0], [least]).output(0), "y"), inputs=[x])


def one_or_two_rows() -> ov.Model:
    """For [N,1,L], a convolution plus a constant of two rows, so that N is at most 2."""
    x = parameter([1, 1, 4])
    y = ops.softmax(ops.convolution(x, np.ones((1, 1, 1), np.float32), [1], [0], [0], [1]), 2)
    two = ops.constant(np.full((2, 1, 1), 2, np.float32))
    return model((ops.add(y, two), "y"), inputs=[x])


def convolution(shape: Sequence[Any] = (1, 3, 8, 8)) -> ov.Model:
    """A convolution of [N,3,H,W], whose weights fix the channels.

    The weights are integers, so sums of integers are exact in any order.
    """
    x = parameter(shape)
    weights = (np.arange(2 * 3 * 3 * 3, dtype=np.float32) % 7 - 3).reshape(2, 3, 3, 3)
    y = ops.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    return model((y, "y"), inputs=[x])


def even_sizes() -> ov.Model:
    """[N,3,H,W] with even H and W: 2 x 2 pixels become channels."""
    x = parameter([1, 3, 8, 8])
    weights = np.ones((3, 3, 1, 1), np.float32)
    y = ops.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    return model((ops.space_to_depth(y, "blocks_first", 2), "y"), inputs=[x])


def positive_places(shape: Sequence[Any] = (6,)) -> ov.Model:
    """The places where x is above 0: the output's length depends on the values."""
    x = parameter(shape)
    y = ops.non_zero(ops.greater(x, ops.constant(0.0, ov.Type.f32)), "i64")
    return model((y, "places"), inputs=[x])


def embeddings() -> ov.Model:
    """A row of the table for each of the tokens [N,L]."""
    tokens = parameter([1, 4], ov.Type.i64, "tokens")
    table = ops.constant(np.arange(400, dtype=np.float32).reshape(100, 4))
    return model((ops.gather(table, tokens, ops.constant(0)), "y"), inputs=[tokens])


def distinct() -> ov.Model:
    """The distinct values of x [N], in order."""
    x = parameter([-1])
    return model((ops.unique(x, ops.constant(0), True), "y"), inputs=[x])


def to_shape() -> ov.Model:
    """Reshapes x to the values of the other input, and fails if x does not fit."""
    x, shape = parameter([6]), parameter([2], ov.Type.i64, name="shape")
    return model((ops.reshape(x, shape, special_zero=False), "y"), inputs=[x, shape])


def mixed_rows(mix: str) -> ov.Model:
    """A model from [N,4] to [N,4] whose rows depend on each other."""
    x = parameter([1, 4])
    axis = ops.constant(0, ov.Type.i64)
    y = {
        "softmax": lambda: ops.softmax(x, 0),
        "less mean": lambda: ops.subtract(x, ops.reduce_mean(x, [0], keep_dims=True)),
        "running sum": lambda: ops.cum_sum(x, axis),
        "plus first": lambda: ops.add(x, ops.gather(x, [0], axis)),
    }[mix]()
    return model((y, "y"), inputs=[x])


def refuses_open_dimensions() -> ov.Model:
    """A model of [1,8,H,W] whose PSROIPooling the CPU plugin compiles for fixed shapes only."""
    x = parameter([1, 8, 8, 8])
    box = ops.constant(np.array([[0, 0, 0, 4, 4]], np.float32))
    y = ops.psroi_pooling(x, box, 2, 2, 1.0, 1, 1, "average")
    return model((y, "y"), inputs=[x])


def without_inputs() -> ov.Model:
    return model((ops.constant(np.arange(3, dtype=np.float32)), "y"), inputs=[])
