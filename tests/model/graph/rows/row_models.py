"""Models of input [N,4,6] and their other inputs: some keep rows apart, some mix them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from tests.model import models

Build: TypeAlias = Callable[[Any], Any]


def of(build: Build) -> ov.Model:
    """The model that `build` makes of an input x [N,4,6]."""
    x = models.parameter([-1, 4, 6])
    return models.model((build(x), "y"), inputs=[x])


def i64(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def number(value: float) -> Any:
    return ops.constant(value, ov.Type.f32)


def number_of_rows(x: Any) -> Any:
    return ops.gather(ops.shape_of(x), i64(0), ops.constant(0))


def spread(x: Any) -> Any:
    """ReduceMax minus ReduceMin over all elements."""
    every = i64(0, 1, 2)
    return ops.subtract(ops.reduce_max(x, every, True), ops.reduce_min(x, every, True))


def weights(*shape: int) -> Any:
    return ops.constant(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))


def above(x: Any, limit: float, axes: list[int]) -> Any:
    return ops.greater(ops.reduce_max(x, i64(*axes), True), number(limit))


def as_picture(x: Any) -> Any:
    return ops.unsqueeze(x, i64(1))


def filled_rows(x: Any, *shape: int) -> Any:
    """Zeros [N,*shape], like initial states."""
    wanted = ops.concat([number_of_rows(x), i64(*shape)], 0)
    return ops.broadcast(number(0), wanted)


def recurrent(x: Any) -> Any:
    lengths = ops.broadcast(i64(4), number_of_rows(x))
    state = filled_rows(x, 1, 5)
    gates = weights(1, 20, 6), weights(1, 20, 5), weights(1, 20)
    return ops.lstm_sequence(x, state, state, lengths, *gates, 5, "forward")


def heads(x: Any) -> Any:
    """[N,4,6] as [N,2,4,3], by sizes computed from the shape."""
    split = ops.concat([number_of_rows(x), i64(4, 2, 3)], 0)
    return ops.transpose(ops.reshape(x, split, special_zero=False), i64(0, 2, 1, 3))


def attention(x: Any) -> Any:
    query = heads(ops.matmul(x, weights(6, 6), False, False))
    scores = ops.softmax(ops.matmul(query, heads(x), False, True), -1)
    mixed = ops.transpose(ops.matmul(scores, heads(x), False, False), i64(0, 2, 1, 3))
    return ops.reshape(mixed, i64(0, 0, -1), special_zero=True)


def windows(x: Any) -> Any:
    """[N,4,6] as [2N,2,6], normalised in each window, and back."""
    cut = ops.reshape(x, i64(-1, 2, 6), special_zero=False)
    return ops.reshape(ops.softmax(cut, 1), i64(-1, 4, 6), special_zero=False)


def with_token(x: Any) -> Any:
    """Each row with a constant place before its four."""
    token = ops.broadcast(weights(1, 1, 6), ops.concat([number_of_rows(x), i64(1, 6)], 0))
    return ops.concat([token, x], 1)


def looped(x: Any) -> Any:
    """A loop over the 4 places, by a TensorIterator."""
    place = ops.parameter([1, 1, 6], np.float32)
    body = ov.Model([ops.result(ops.relu(place))], [place], "body")
    loop = ops.tensor_iterator()
    loop.set_function(body)
    loop.set_sliced_input(place, x.output(0), 0, 1, 1, -1, 0)
    return loop.get_concatenated_slices(body.results[0].output(0), 0, 1, 1, -1, 0)


def resized(x: Any, scales: list[float], mode: str = "half_pixel") -> Any:
    return ops.interpolate(
        as_picture(x),
        ops.constant(np.array(scales, np.float32)),
        "nearest",
        "scales",
        coordinate_transformation_mode=mode,
    )


APART: dict[str, Build] = {
    "softmax": lambda x: ops.softmax(x, -1),
    "mean of each row": lambda x: ops.subtract(x, ops.reduce_mean(x, i64(-1, -2), True)),
    "scaled by the largest of each": lambda x: ops.multiply(
        x, ops.select(above(x, 50, [1, 2]), number(2), number(1))
    ),
    "flat": lambda x: ops.reshape(x, i64(0, -1), special_zero=True),
    "fully connected": lambda x: ops.matmul(x, weights(6, 3), False, False),
    "weights first": lambda x: ops.matmul(weights(3, 4), x, False, False),
    "against itself": lambda x: ops.matmul(x, x, False, True),
    "against a vector": lambda x: ops.matmul(x, weights(6), False, False),
    "a vector first": lambda x: ops.matmul(weights(4), x, False, False),
    "rows behind": lambda x: ops.matmul(
        weights(3, 6), ops.reduce_sum(x, i64(1), False), False, True
    ),
    "rows down": lambda x: ops.softmax(ops.transpose(x, i64(1, 2, 0)), 1),
    "attention": attention,
    "scaled dot product": lambda x: ops.scaled_dot_product_attention(heads(x), heads(x), heads(x)),
    "windows": windows,
    "token": with_token,
    "recurrent": lambda x: recurrent(x).output(0),
    "last state": lambda x: recurrent(x).output(1),
    "padded": lambda x: ops.pad(x, i64(0, 1, 0), i64(0, 0, 2), "edge"),
    "convolution": lambda x: ops.convolution(x, weights(3, 4, 3), [1], [1], [1], [1]),
    "largest of neighbours": lambda x: ops.max_pool(x, [1], [1], [0], [0], [2]).output(0),
    "resized": lambda x: resized(x, [1, 1, 2, 2]),
    "topk": lambda x: ops.topk(x, ops.constant(2), -1, "max", "value").output(0),
    "places of the largest": lambda x: ops.topk(x, ops.constant(1), 1, "max", "none").output(1),
    "running sum": lambda x: ops.cum_sum(x, ops.constant(-1)),
    "rolled": lambda x: ops.roll(x, i64(1), i64(-1)),
    "split": lambda x: ops.concat(ops.split(x, ops.constant(1), 2).outputs(), 2),
    "in one line": lambda x: ops.reshape(
        ops.relu(ops.reshape(x, i64(1, -1), special_zero=False)), i64(-1, 4, 6), special_zero=False
    ),
    "scaled by its width": lambda x: ops.multiply(
        x, ops.sqrt(ops.convert(ops.gather(ops.shape_of(x), i64(-1), ops.constant(0)), "f32"))
    ),
    "first place": lambda x: ops.gather(x, ops.constant(0), ops.constant(1)),
    "every other place": lambda x: ops.strided_slice(
        x, i64(0, 0, 0), i64(0, 4, 6), i64(1, 2, 1), [1, 0, 0], [1, 0, 0]
    ),
    "last places": lambda x: ops.slice(x, i64(-2), i64(9), i64(1), i64(1)),
    "whole by its size": lambda x: ops.slice(x, i64(0), number_of_rows(x), i64(1), i64(0)),
    "ellipsis": lambda x: ops.strided_slice(
        x, i64(0, 1), i64(0, 3), i64(1, 1), [0, 0], [0, 0], [0, 0], [0, 0], [1, 0]
    ),
    "new axis in front": lambda x: ops.strided_slice(
        x, i64(0, 0), i64(0, 0), i64(1, 1), [0, 1], [0, 1], [1, 0], [0, 0], [0, 0]
    ),
    "divided by the width": lambda x: ops.divide(
        x, ops.convert(ops.gather(ops.shape_of(x), i64(2), ops.constant(0)), "f32")
    ),
    "einsum": lambda x: ops.einsum([x, weights(6, 5)], "nij,jk->nik"),
    "bags": lambda x: ops.embedding_bag_packed_sum(
        weights(9, 3), ops.convert(ops.clamp(ops.reduce_max(x, i64(1), False), 0, 8), "i64")
    ),
    "embedding": lambda x: ops.gather(
        weights(9, 3), ops.convert(ops.clamp(x, 0, 8), "i64"), ops.constant(0)
    ),
    "tiled": lambda x: ops.tile(x, i64(1, 2, 1)),
    "normalised": lambda x: ops.mvn(x, i64(-1), True, 1e-5, "inside_sqrt"),
    "one hot": lambda x: ops.one_hot(
        ops.convert(x, "i64"), ops.constant(3), number(1), number(0), -1
    ),
    "quantized": lambda x: ops.fake_quantize(x, number(-1), number(1), number(-1), number(1), 256),
    "by lengths": lambda x: ops.reverse_sequence(x, ops.broadcast(i64(3), number_of_rows(x)), 0, 1),
}

ACROSS: dict[str, tuple[Build, str]] = {
    "scaled by the largest of all": (
        lambda x: ops.multiply(x, ops.select(above(x, 50, [0, 1, 2]), number(2), number(1))),
        "ReduceMax at node 'n' works across rows",
    ),
    "told bytes by values": (
        lambda x: ops.select(above(x, 1, [-3, -2, -1]), ops.divide(x, number(255)), x),
        "ReduceMax at node 'n' works across rows",
    ),
    "quantized by all": (
        lambda x: ops.divide(x, spread(x)),
        "ReduceMax at node 'n' works across rows",
    ),
    "divided by the number of rows": (
        lambda x: ops.divide(x, ops.convert(number_of_rows(x), "f32")),
        "Divide at node 'n' takes the number of rows as a value",
    ),
    "at most four rows": (
        lambda x: ops.divide(x, ops.convert(ops.minimum(number_of_rows(x), i64(4)), "f32")),
        "takes the number of rows as a value",
    ),
    "more than a thousand rows": (
        lambda x: ops.select(ops.greater(number_of_rows(x), i64(1000)), ops.negative(x), x),
        "takes the number of rows as a value",
    ),
    "whether that is odd": (
        lambda x: ops.multiply(x, ops.convert(ops.mod(number_of_rows(x), i64(2)), "f32")),
        "takes the number of rows as a value",
    ),
    "numbered rows": (
        lambda x: ops.add(
            x,
            ops.unsqueeze(
                ops.range(number(0), ops.squeeze(number_of_rows(x), i64(0)), number(1), "f32"),
                i64(1, 2),
            ),
        ),
        "takes the number of rows as a value",
    ),
    "softmax": (lambda x: ops.softmax(x, -3), "Softmax at node 'n' works across rows"),
    "less the mean": (
        lambda x: ops.subtract(x, ops.reduce_mean(x, i64(0), True)),
        "ReduceMean at node 'n' works across rows",
    ),
    "sorted": (
        lambda x: ops.topk(x, ops.constant(1), 0, "max", "value").output(0),
        "TopK at node 'n' works across rows",
    ),
    "running sum": (lambda x: ops.cum_sum(x, ops.constant(-3)), "CumSum at .* works across rows"),
    "normalised": (
        lambda x: ops.mvn(x, i64(-3, -1), True, 1e-5, "inside_sqrt"),
        "MVN at node 'n' works across rows",
    ),
    "unit length": (
        lambda x: ops.normalize_l2(x, i64(0), 1e-6, "add"),
        "NormalizeL2 at node 'n' works across rows",
    ),
    "rows by rows": (
        lambda x: ops.matmul(
            ops.reshape(x, i64(0, -1), special_zero=True),
            ops.reshape(x, i64(0, -1), special_zero=True),
            False,
            True,
        ),
        "MatMul at node 'n' multiplies rows by rows",
    ),
    "covariance": (
        lambda x: ops.matmul(
            ops.reshape(x, i64(0, -1), special_zero=True),
            ops.reshape(x, i64(0, -1), special_zero=True),
            True,
            False,
        ),
        "MatMul at node 'n' works across rows",
    ),
    "distances": (
        lambda x: ops.subtract(ops.unsqueeze(x, i64(0)), ops.unsqueeze(x, i64(1))),
        "Subtract at node 'n' broadcasts rows against rows",
    ),
    "rolled": (lambda x: ops.roll(x, i64(1), i64(0)), "Roll at node 'n' works across rows"),
    "reversed": (
        lambda x: ops.strided_slice(x, i64(0), i64(0), i64(-1), [1], [1]),
        "StridedSlice at node 'n' works across rows",
    ),
    "all but the first": (
        lambda x: ops.slice(x, i64(1), i64(99), i64(1), i64(-3)),
        "Slice at node 'n' works across rows",
    ),
    "the first rows": (
        lambda x: ops.slice(x, i64(0), i64(9), i64(1), i64(0)),
        "Slice at node 'n' works across rows",
    ),
    "the first row": (
        lambda x: ops.add(x, ops.gather(x, i64(0), ops.constant(-3))),
        "Gather at node 'n' works across rows",
    ),
    "padded": (lambda x: ops.pad(x, i64(1, 0, 0), i64(0, 0, 0), "edge"), "Pad at .* across rows"),
    "resized": (lambda x: resized(x, [2, 1, 1, 1]), "Interpolate at node 'n' works across rows"),
    "resized a little": (
        lambda x: resized(x, [1.001, 1, 2, 2]),
        "Interpolate at node 'n' works across rows",
    ),
    "shifted": (
        lambda x: resized(x, [1, 1, 2, 2], "tf_half_pixel_for_nn"),
        "Interpolate at node 'n' works across rows",
    ),
    "noise": (
        lambda x: ops.add(x, ops.random_uniform(ops.shape_of(x), number(0), number(1), "f32")),
        "operation RandomUniform at node 'n' is not known to keep rows apart",
    ),
    "a loop": (looped, "operation TensorIterator at node 'n' is not known to keep rows apart"),
    "where it is": (
        lambda x: ops.non_zero(x, "i64"),
        "operation NonZero at node 'n' is not known to keep rows apart",
    ),
    "limits of all": (
        lambda x: ops.fake_quantize(
            x,
            ops.reduce_min(x, i64(1, 2), True),
            ops.reduce_max(x, i64(1, 2), True),
            number(0),
            number(1),
            256,
        ),
        "FakeQuantize at node 'n' takes input 1 from rows",
    ),
    "rows and channels": (
        lambda x: ops.reshape(ops.transpose(x, i64(1, 0, 2)), i64(-1, 6), special_zero=False),
        "Reshape at node 'n' merges rows with another dimension",
    ),
    "rows in channels": (
        lambda x: ops.softmax(ops.reshape(x, i64(4, -1, 6), special_zero=False), 0),
        "Reshape at node 'n' merges rows with another dimension",
    ),
    "twice": (lambda x: ops.concat([x, x], 0), "Concat at node 'n' works across rows"),
    "repeated": (lambda x: ops.tile(x, i64(2, 1, 1)), "Tile at node 'n' repeats rows"),
    "one row more": (
        lambda x: ops.concat([weights(1, 4, 6), x], -3),
        "Concat at node 'n' joins rows with an input that has none",
    ),
    "sums by equation": (
        lambda x: ops.einsum([x, x], "nij,mij->nm"),
        "Einsum at node 'n' multiplies rows by rows",
    ),
    "sum by equation": (
        lambda x: ops.einsum([x, weights(6, 5)], "nij,jk->ik"),
        "Einsum at node 'n' works across rows",
    ),
    "by the places of all": (
        lambda x: ops.max_pool(x, [1], [1], [0], [0], [2]).output(1),
        "MaxPool at node 'n' gives indices that count across rows",
    ),
    "as many as asked for": (
        lambda x: ops.reshape(
            x, ops.convert(ops.reduce_max(x, i64(0, 1), False), "i64"), special_zero=False
        ),
        "ReduceMax at node 'n' works across rows",
    ),
    "only known rows": (
        lambda x: ops.slice(x, i64(0), ops.minimum(number_of_rows(x), i64(9)), i64(1), i64(0)),
        "Slice at node 'n' works across rows",
    ),
    "constants": (
        lambda x: ops.convert(ops.shape_of(x), "f32"),
        "output 'y' has no rows: it depends on the number of rows",
    ),
}
