"""Floats that become integers, and double floats beyond float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from openvino import opset15 as ops

from deployments.errors import NumberNotCarried
from deployments.tensors import Array
from tests.model.graph.numbers.answers import answer, check
from tests.model.graph.numbers.number_models import FLOAT32, constant, one_input
from tests.model.loading import array, loaded, tensor


async def test_large_floats_become_integers_right() -> None:
    model = one_input(lambda x: ops.convert(x, "i64"), "FP32")
    await check(model, np.array([[2**40, -(2**33)]]), tensor([[2.0**40, -(2.0**33)]]))


async def test_floats_that_no_integer_holds_are_refused() -> None:
    version = loaded(one_input(lambda x: ops.convert(x, "i64"), "FP32"))
    error = await answer(version, tensor([[1e30, 1]]))
    assert isinstance(error, NumberNotCarried)
    assert "input 'x'" in error.message


@pytest.mark.parametrize(
    ("of", "exact"),
    [
        (lambda x: ops.reshape(x, constant([-1]), False), lambda v: v.ravel()),
        (lambda x: ops.subtract(x, x), lambda v: v - v),
        (lambda x: ops.divide(constant(1, "FP64"), x), lambda v: 1 / v),
    ],
)
async def test_infinities_and_nan_of_double_floats_are_kept(
    of: Callable[[Any], Any], exact: Callable[[Array], Array]
) -> None:
    given = tensor([[np.inf, -np.inf, np.nan, 2, FLOAT32 / 2**10]], "FP64")
    with np.errstate(all="ignore"):
        expected = exact(array(given))
    got = await answer(loaded(one_input(of, "FP64")), given)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


async def test_double_floats_that_overflow_float32_are_computed_right() -> None:
    given = tensor([[1e30, -1e30, 0]], "FP64")
    model = one_input(lambda x: ops.multiply(x, ops.absolute(x)), "FP64")
    await check(model, array(given) * np.abs(array(given)), given)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (lambda square: ops.divide(constant(1, "FP64"), square), 1e-80),
        (lambda square: ops.clamp(square, 0, 7), 7),
        (lambda square: ops.divide(square, ops.add(square, constant(3, "FP64"))), 1),
        (lambda square: ops.sqrt(square), 1e40),
    ],
)
async def test_double_floats_that_overflow_on_the_way_are_computed_right(
    of: Callable[[Any], Any], expected: float
) -> None:
    model = one_input(lambda x: of(ops.multiply(ops.multiply(x, x), x)), "FP64", (1,))
    value = 1e80 ** (1 / 3)
    got = await answer(loaded(model), tensor([value], "FP64"))
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, np.array([expected]), 1e-12)
