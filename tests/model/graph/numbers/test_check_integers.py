"""Integers that leave the device's range on the way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from openvino import opset15 as ops

from deployments.datatypes import NUMPY_DTYPES
from deployments.tensors import Array
from tests.model.graph.numbers.answers import check
from tests.model.graph.numbers.number_models import BILLION, INT32, constant, one_input
from tests.model.loading import array, tensor


@pytest.mark.parametrize(
    ("name", "of", "values", "exact"),
    [
        ("add", lambda x: ops.add(x, x), [[2 * BILLION, -5]], lambda v: v + v),
        ("low", lambda x: ops.add(x, x), [[-2 * BILLION, 5]], lambda v: v + v),
        (
            "subtract",
            lambda x: ops.subtract(constant(-2 * BILLION), x),
            [[2 * BILLION]],
            lambda v: -2 * BILLION - v,
        ),
        ("multiply", lambda x: ops.multiply(x, x), [[100_000, 3]], lambda v: v * v),
        ("constant", lambda x: ops.add(x, constant(2**40)), [[1, -1]], lambda v: v + 2**40),
        (
            "wide constant",
            lambda x: ops.concat([x, constant([[2**40]])], 1),
            [[1]],
            lambda v: np.append(v, [[2**40]], 1),
        ),
        (
            "sum",
            lambda x: ops.reduce_sum(x, constant([1])),
            [[2 * BILLION] * 3],
            lambda v: v.sum(1),
        ),
        (
            "odd sum",
            lambda x: ops.reduce_sum(x, constant([1])),
            [[2**24 + 1, 10**8 + 1]],
            lambda v: v.sum(1),
        ),
        (
            "largest",
            lambda x: ops.reduce_max(x, constant([1])),
            [[123456789, 5]],
            lambda v: v.max(1),
        ),
        (
            "product",
            lambda x: ops.reduce_prod(x, constant([1])),
            [[100_000, 100_000]],
            lambda v: v.prod(1),
        ),
        (
            "mean",
            lambda x: ops.reduce_mean(x, constant([1])),
            [[2 * BILLION, 2 * BILLION]],
            lambda v: v.sum(1) // 2,
        ),
        (
            "running sum",
            lambda x: ops.cum_sum(x, constant(1)),
            [[2 * BILLION] * 3],
            lambda v: v.cumsum(1),
        ),
        (
            "matmul",
            lambda x: ops.matmul(x, x, False, True),
            [[100_000, 100_000]],
            lambda v: v @ v.T,
        ),
        (
            "odd matmul",
            lambda x: ops.matmul(x, constant(np.eye(2)), False, False),
            [[2**24 + 1, 1]],
            lambda v: v,
        ),
        ("square", lambda x: ops.power(x, constant(2)), [[4097, 100_000]], lambda v: v**2),
        (
            "difference",
            lambda x: ops.squared_difference(x, constant(1)),
            [[100_000]],
            lambda v: (v - 1) ** 2,
        ),
        ("negative", lambda x: ops.negative(x), [[-(2**31)]], lambda v: -v),
        ("absolute", lambda x: ops.absolute(x), [[-(2**31)]], lambda v: -v),
        ("quotient", lambda x: ops.divide(x, constant(1)), [[2**24 + 1]], lambda v: v),
        ("floor", lambda x: ops.divide(x, constant(2)), [[-7, 7]], lambda v: v // 2),
        (
            "remainder",
            lambda x: ops.floor_mod(x, constant(7)),
            [[2 * BILLION, -3]],
            lambda v: v % 7,
        ),
        ("relu", lambda x: ops.relu(x), [[2**24 + 1, -3]], lambda v: np.maximum(v, 0)),
        (
            "compared",
            lambda x: ops.greater(ops.add(x, x), constant(0)),
            [[2 * BILLION]],
            lambda v: v > 0,
        ),
        (
            "inside",
            lambda x: ops.floor_mod(ops.multiply(x, constant(10_007)), constant(101)),
            [[10**6]],
            lambda v: v * 10_007 % 101,
        ),
        (
            "size",
            lambda x: ops.multiply(ops.shape_of(x), constant(2**30)),
            [[1, 2, 3, 4]],
            lambda v: np.array(v.shape) * 2**30,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_would_leave_the_device_s_range_is_computed_right(
    name: str, of: Callable[[Any], Any], values: Any, exact: Callable[[Array], Any]
) -> None:
    given = tensor(values, "INT64")
    await check(one_input(of), exact(array(given)), given)


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "UINT64"])
@pytest.mark.parametrize("of", [np.add, np.subtract, np.multiply])
async def test_other_integers_wrap_as_they_do_in_numpy(datatype: str, of: Any) -> None:
    node = {np.add: ops.add, np.subtract: ops.subtract, np.multiply: ops.multiply}[of]
    ends = np.iinfo(NUMPY_DTYPES[datatype])
    values = np.array([[0, 1, 100, min(ends.max, INT32.max)]], NUMPY_DTYPES[datatype])
    two_ = NUMPY_DTYPES[datatype].type(2)
    model = one_input(lambda x: node(constant(2, datatype), x), datatype)
    await check(model, of(two_, values), tensor(values, datatype))
