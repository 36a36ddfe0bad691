"""Models with one difficulty each, and requests for them.

Every compilation rounds their operations equally, or the values are integers, whose sums are exact
in any order.
"""

from typing import Any

import numpy as np
import openvino as ov

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.tensors import Array, Tensor
from tests.e2e.small.answers import Request
from tests.model import models
from tests.model.loading import tensor

MODELS: dict[str, ov.Model] = {
    "constant-target": models.fixed_batch(),
    "fixed-batch": models.two_rows(),
    "ranks": models.scaled(),
    "scalar-input": models.scaled_by_scalar(),
    "only-scalars": models.add_one(()),
    "empty": models.positive_places(),
    "strings": models.strings_and_lengths(),
    "tokens": models.embeddings(),
    "bounded": models.add_one((-1, ov.Dimension(2, 8), 4)),
    "many-outputs": models.outputs_of_all_kinds(),
    "datatypes": models.every_datatype(),
    "never-open": models.refuses_open_dimensions(),
    "by-values": models.to_shape(),
    "state": models.running_total(),
    "sum-INT64": models.agreeing((1, 2), ov.Type.i64),
    "sum-FP64": models.agreeing((1, 2), ov.Type.f64),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ranks": {"batching": {"stacking": "always"}},
    "datatypes": {"batching": {"stacking": "always"}},
    "strings": {"batching": {"stacking": "always"}},
    "state": {"batching": {"stacking": "always"}},
    "tokens": {"batch_size": 1, "reshape": "blocking"},
    "by-values": {"shape": {"x": "(6)", "shape": "(2)"}},
}


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*shape: int) -> Array:
    return np.random.default_rng(1).integers(-999, 999, shape).astype(np.float32)


def x(values: Any) -> Request:
    return [tensor(values)]


def scaled(*shape: int) -> Request:
    return [tensor(floats(*shape)), tensor(floats(*shape[:2], seed=1), name="scale")]


def tokens(values: list[int]) -> Request:
    return [tensor([values], "INT64", "tokens")]


def scaled_by(scale: float, *shape: int) -> Request:
    return [tensor(floats(*shape)), tensor(scale, name="scale")]


def words(values: list[list[bytes]], columns: int) -> Request:
    shape = (len(values), columns)
    return [Tensor("words", BYTES, shape, [word for row in values for word in row])]


def every_datatype(rows: int, columns: int) -> Request:
    """Values that include the limits of each datatype that the CPU plugin preserves."""
    count = rows * columns
    given = []
    for datatype in models.DATATYPES:
        if datatype == BYTES:
            strings = [(b"", b"a", "ø".encode(), b"\0a")[n % 4] for n in range(count)]
            given.append(Tensor(datatype, BYTES, (rows, columns), strings))
            continue
        dtype = NUMPY_DTYPES[datatype]
        values: list[float] = [0, 1.5, -123.25, 2.0**-9]
        if datatype == BF16:
            values = [0x0000, 0x3F80, 0xC2F7, 0x0001]
        elif dtype.kind == "b":
            values = [False, True]
        elif dtype.kind in "iu":
            end = min(np.iinfo(dtype).max, 2**31 - 1)
            values = [0, end - 1, 7, max(np.iinfo(dtype).min, -(2**31))]
        array = np.resize(np.array(values, dtype), (rows, columns))
        given.append(tensor(array, datatype, datatype))
    return given


def reshaped(*shape: int) -> Request:
    return [tensor(range(6)), tensor(shape, "INT64", "shape")]


def summands(datatype: str, rows: int) -> Request:
    return [tensor([[1, -7]] * rows, datatype, name) for name in "ab"]


REQUESTS: dict[str, list[Request]] = {
    "constant-target": [x(floats(4, 6))],
    "fixed-batch": [x(floats(2, 4)), x(floats(2, 1)), x(floats(2, 9))],
    "ranks": [scaled(1, 3, 4), scaled(3, 3, 4), scaled(2, 5, 4), scaled(2, 3, 0)],
    "scalar-input": [scaled_by(0.3, 1, 4), scaled_by(-7.7, 3, 4), scaled_by(1, 2, 5)],
    "only-scalars": [x(0.1), x(-2)],
    "empty": [x([-1] * 6), x([]), x([0, 1, 0, 2]), x([1] * 6)],
    "strings": [
        words([["straße".encode(), b"", b"\0z"]], 3),
        words([[b"one"], [b"three"], [b""]], 1),
        words([[b"long" * 5000, b"short"]], 2),
    ],
    "tokens": [tokens([3, 1, 4]), tokens([99])],
    "bounded": [x(floats(1, 2, 4)), x(floats(3, 8, 4)), x(floats(0, 5, 4))],
    "many-outputs": [x(whole(1, 4)), x(whole(4, 4)), x(whole(2, 6))],
    "datatypes": [every_datatype(1, 4), every_datatype(3, 4), every_datatype(2, 5)],
    "never-open": [x(whole(1, 8, 8, 8)), x(whole(1, 8, 16, 9)), x(whole(2, 8, 8, 8))],
    "by-values": [reshaped(2, 3), reshaped(6, 1)],
    "state": [x(floats(1, 4)), x(floats(3, 4))],
    "sum-INT64": [summands("INT64", 1), summands("INT64", 3)],
    "sum-FP64": [summands("FP64", 1), summands("FP64", 3)],
}
