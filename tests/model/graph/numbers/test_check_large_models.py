"""Models too large for anything but the device to compute them."""

from collections.abc import Sequence

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from deployments.errors import NumberNotCarried
from deployments.model.graph.numbers.check import NumberCheck
from deployments.tensors import Tensor
from tests.model import models
from tests.model.graph.numbers.answers import answer, check
from tests.model.graph.numbers.number_models import BILLION, constant, one_input, sum_of_two, two
from tests.model.loading import array, loaded, tensor


def large(model: ov.Model) -> ov.Model:
    """The same model with more weights, so that only the device computes it."""
    weights = ops.constant(np.zeros(2**19, np.float32))
    total = ops.reduce_sum(weights, ops.constant([0]), False)
    total.output(0).set_names({"weights"})
    model.add_results([ops.result(total)])
    return model


async def test_a_large_model_refuses_with_node_and_input_what_leaves_the_range() -> None:
    error = await answer(
        loaded(large(sum_of_two("INT64"))), *two([[2 * BILLION]], [[1500000000]], "INT64")
    )
    assert isinstance(error, NumberNotCarried)
    for part in ("node 'Add_", "'a', 'b'", "3500000000", "2147483647"):
        assert part in error.message


async def test_a_large_model_answers_what_only_loose_bounds_would_refuse() -> None:
    model = large(one_input(lambda x: ops.cum_sum(x, constant(1))))
    given = tensor([[2 * BILLION, -2 * BILLION, 2 * BILLION]], "INT64")
    await check(model, array(given).cumsum(1), given)


async def test_double_floats_that_overflow_in_a_large_model_are_refused() -> None:
    version = loaded(large(one_input(lambda x: ops.multiply(x, x), "FP64")))
    error = await answer(version, tensor([[1e30]], "FP64"))
    assert isinstance(error, NumberNotCarried)
    assert "output 'y'" in error.message


def positions() -> ov.Model:
    """The operations on integers in a language model before its first matrix."""
    ids, mask = (models.parameter([-1, -1], ov.Type.i64, name) for name in ("ids", "mask"))
    place = ops.subtract(ops.cum_sum(mask, constant(1)), constant(1))
    place = ops.select(ops.equal(mask, constant(0)), constant(1), place)
    length = ops.gather(ops.shape_of(ids), constant([1]), constant(0))
    table = ops.constant(np.arange(2**19, dtype=np.float32).reshape(2**17, 4))
    words = ops.gather(table, ids, constant(0))
    rows = ops.gather(table, place, constant(0))
    return models.model(
        (ops.add(words, rows), "y"), (ops.multiply(length, constant([8])), "n"), inputs=[ids, mask]
    )


async def test_a_language_model_s_ids_are_never_computed_but_by_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = loaded(positions())
    assert version.numbers is not None
    slow: list[Sequence[Tensor]] = []
    monkeypatch.setattr(NumberCheck, "_exactly", lambda *given: slow.append(given))
    monkeypatch.setattr(NumberCheck, "_looked_through", lambda *given: slow.append(given))
    ids = np.arange(2 * 512).reshape(2, 512)
    mask = (ids % 512 < 400).astype(np.int64)
    got = await answer(version, tensor(ids, "INT64", "ids"), tensor(mask, "INT64", "mask"))
    table = np.arange(2**19, dtype=np.float32).reshape(2**17, 4)
    place = np.where(mask == 0, 1, mask.cumsum(1) - 1)
    np.testing.assert_array_equal(table[ids] + table[place], got)
    assert [] == slow
