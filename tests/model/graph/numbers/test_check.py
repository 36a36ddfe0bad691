"""Numbers outside the device's range are computed correctly or refused, never changed."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import NumberNotCarried
from deployments.model.graph.numbers.check import NumberCheck
from tests.model import models
from tests.model.graph.numbers.answers import answer, check
from tests.model.graph.numbers.number_models import (
    BILLION,
    FLOAT32,
    INT32,
    constant,
    one_input,
    sum_of_two,
    two,
)
from tests.model.loading import array, loaded, tensor
from tests.model.serving import Request, serving


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT64", -(2**63)), ("UINT64", 2**64 - 1), ("UINT32", 2**32 - 1), ("FP64", 1.79e308)],
)
@pytest.mark.parametrize("shape", ["auto", "(2,2)"])
async def test_an_output_that_is_an_input_keeps_its_numbers(
    datatype: str, value: float, shape: str
) -> None:
    x = ops.parameter([-1, 2], NUMPY_DTYPES[datatype], name="x")
    x.output(0).set_names({"x"})
    version = loaded(ov.Model([ops.result(x)], [x]), shape=shape)
    got = await answer(version, tensor([[value, 1], [0, value]], datatype))
    np.testing.assert_array_equal(np.array([[value, 1], [0, value]], NUMPY_DTYPES[datatype]), got)


@pytest.mark.parametrize(
    ("datatype", "value", "limit"),
    [
        ("INT64", 2**31, 2**31 - 1),
        ("INT64", 2**40, 2**31 - 1),
        ("INT64", 2**63 - 1, 2**31 - 1),
        ("INT64", -(2**31) - 1, -(2**31)),
        ("INT64", -(2**63), -(2**31)),
        ("UINT64", 2**31, 2**31 - 1),
        ("UINT64", 2**64 - 1, 2**31 - 1),
        ("UINT32", 2**31, 2**31 - 1),
        ("UINT32", 2**32 - 1, 2**31 - 1),
        ("FP64", 1.79e308, FLOAT32),
        ("FP64", -3.5e38, -FLOAT32),
    ],
)
@pytest.mark.parametrize("background", [True, False])
async def test_inputs_beyond_the_device_are_refused_with_input_value_and_limit(
    datatype: str, value: float, limit: float, background: bool
) -> None:
    version = loaded(sum_of_two(datatype), background=background)
    for tensors in (two([[0], [value]], [[1], [1]], datatype), two([[1]], [[value]], datatype)):
        error = await answer(version, *tensors)
        assert isinstance(error, NumberNotCarried)
        name = "a" if tensors[0].shape[0] == 2 else "b"
        for part in (f"input '{name}'", datatype, repr(value), repr(limit)):
            assert part in error.message
        assert (400, "INVALID_ARGUMENT") == (error.http_status, error.grpc_code)


@pytest.mark.parametrize("datatype", ["INT64", "UINT64", "UINT32"])
async def test_the_ends_of_what_the_device_holds_are_kept(datatype: str) -> None:
    least = max(INT32.min, int(np.iinfo(NUMPY_DTYPES[datatype]).min))
    given = tensor([[least, 0, INT32.max]], datatype)
    await check(one_input(lambda x: ops.transpose(x, [1, 0]), datatype), array(given).T, given)


async def test_a_member_that_is_refused_leaves_the_rest_of_its_batch_alone() -> None:
    version = loaded(one_input(lambda x: ops.add(x, constant(1))), stacking="always")
    async with serving(version) as served:
        first, bad, last = await served.ask(
            *([tensor([[value]], "INT64")] for value in (1, 2**40, 2 * BILLION))
        )
        assert 1 == served.statistics()["stacked_batches"]
    assert isinstance(bad, NumberNotCarried)
    assert isinstance(first, list)
    assert isinstance(last, list)
    assert [[2]] == array(first[0]).tolist()
    assert [[2 * BILLION + 1]] == array(last[0]).tolist()


async def test_only_wanted_outputs_are_answered() -> None:
    x = models.parameter([-1], ov.Type.i64)
    numbers = models.model((ops.add(x, x), "sum"), (ops.multiply(x, x), "product"), inputs=[x])
    async with serving(loaded(numbers)) as served:
        (given,) = await served.ask(Request([tensor([2 * BILLION], "INT64")], ("product",)))
    assert isinstance(given, list)
    assert [("product", [4 * 10**18])] == [(t.name, array(t).tolist()) for t in given]


@pytest.mark.parametrize("datatype", ["INT64", "UINT64", "UINT32", "FP64"])
async def test_tensors_without_elements_are_no_reason_to_refuse(datatype: str) -> None:
    empty = np.zeros((2, 0), NUMPY_DTYPES[datatype])
    await check(sum_of_two(datatype), empty, *two(empty, empty, datatype))


def number_check_of(model: ov.Model) -> NumberCheck | None:
    return loaded(model).numbers


@pytest.mark.parametrize(
    "model", [models.convolution(), models.add_one(), models.outputs_of_all_kinds()]
)
def test_models_whose_numbers_the_device_keeps_have_no_check(model: ov.Model) -> None:
    assert number_check_of(model) is None
