"""Numbers outside the device's range are computed correctly or refused, never changed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from deployments.errors import NumberNotCarried
from deployments.model.graph.numbers.check import NumberCheck
from deployments.model.versions.loaded import LoadedModel
from deployments.tensors import NUMPY_DTYPES, Array, Tensor
from tests.model import models
from tests.model.loading import array, loaded, tensor
from tests.model.serving import Request, serving

BILLION = 10**9
INT32 = np.iinfo(np.int32)
FLOAT32 = float(np.finfo(np.float32).max)


def constant(values: Any, datatype: str = "INT64") -> Any:
    return ops.constant(np.array(values, NUMPY_DTYPES[datatype]))


def one_input(of: Callable[[Any], Any], datatype: str = "INT64", shape: Any = (-1, -1)) -> ov.Model:
    x = models.parameter(shape, models.DATATYPES[datatype])
    return models.model((of(x), "y"), inputs=[x])


def sum_of_two(datatype: str) -> ov.Model:
    return models.agreeing((-1, -1), models.DATATYPES[datatype])


def two(a: Any, b: Any, datatype: str) -> list[Tensor]:
    return [tensor(a, datatype, "a"), tensor(b, datatype, "b")]


def large(model: ov.Model) -> ov.Model:
    """The same model with more weights, so that only the device computes it."""
    weights = ops.constant(np.zeros(2**19, np.float32))
    total = ops.reduce_sum(weights, ops.constant([0]), False)
    total.output(0).set_names({"weights"})
    model.add_results([ops.result(total)])
    return model


async def answer(version: LoadedModel, *tensors: Tensor) -> Array | NumberNotCarried:
    async with serving(version) as served:
        (given,) = await served.ask(list(tensors))
    if isinstance(given, NumberNotCarried):
        return given
    assert isinstance(given, list), given
    return array(given[0])


async def check(model: ov.Model, expected: Any, *tensors: Tensor) -> None:
    for background in (True, False):
        got = await answer(loaded(model, background=background), *tensors)
        np.testing.assert_array_equal(np.asarray(expected), got, strict=True)


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


def scattered(x: Any, reduction: str) -> Any:
    """Each row's second and last number put together with its first."""
    places = constant([[0, 0], [0, 0]])
    return ops.scatter_elements_update(
        x, places, ops.gather(x, constant([1, 3]), constant(1)), constant(1), reduction, True
    )


def first_with(x: Array, of: Callable[[Any, Any], Any]) -> Array:
    given = x.copy()
    given[:, 0] = of(of(x[:, 0], x[:, 1]), x[:, 3])
    return given


def thousandfold(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: ops.multiply(of(x), ops.convert_like(constant(1000), x))


UNBOUNDED: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "Einsum": (lambda x: ops.einsum([x, x], "ij,ij->i"), lambda x: np.sum(x * x, 1, dtype=x.dtype)),
    "PRelu": (lambda x: ops.prelu(x, ops.convert_like(constant([3]), x)), np.copy),
    "BitwiseLeftShift": (
        lambda x: ops.bitwise_left_shift(x, ops.convert_like(constant(9), x)),
        lambda x: x << 9,
    ),
    "ScatterElementsUpdate": (
        lambda x: scattered(x, "sum"),
        lambda x: first_with(x, np.add),
    ),
    "product": (lambda x: scattered(x, "prod"), lambda x: first_with(x, np.multiply)),
    "EmbeddingBagPackedSum": (
        lambda x: ops.embedding_bag_packed_sum(x, constant([[0, 1], [1, 1]])),
        lambda x: np.stack([x[0] + x[1], x[1] + x[1]]),
    ),
    "MaxPool": (
        lambda x: ops.max_pool(ops.unsqueeze(x, constant([0])), [1], [1], [0], [0], [2]).output(0),
        lambda x: np.maximum(x[:, 1:], x[:, :-1])[None],
    ),
    "Interpolate": (
        lambda x: ops.interpolate(
            ops.unsqueeze(x, constant([0, 1])), constant([2, 4]), "nearest", "sizes",
            axes=constant([2, 3]),
        ),
        lambda x: x[None, None],
    ),
    **{
        kind: (thousandfold(of), by_numpy)
        for kind, of, by_numpy in [
            (
                "TopK",
                lambda x: ops.topk(x, constant(2), 1, "max", "value").output(0),
                lambda x: np.sort(x, 1)[:, :1:-1] * x.dtype.type(1000),
            ),
            (
                "BitwiseAnd",
                lambda x: ops.bitwise_and(x, ops.convert_like(constant(INT32.max), x)),
                lambda x: (x & INT32.max) * x.dtype.type(1000),
            ),
            (
                "ReverseSequence",
                lambda x: ops.reverse_sequence(x, constant([4, 4]), 0, 1),
                lambda x: x[:, ::-1] * x.dtype.type(1000),
            ),
            (
                "ShuffleChannels",
                lambda x: ops.shuffle_channels(x, 1, 2),
                lambda x: x[:, [0, 2, 1, 3]] * x.dtype.type(1000),
            ),
            (
                "Unique",
                lambda x: ops.unique(x).output(0),
                lambda x: np.unique(x) * x.dtype.type(1000),
            ),
        ]
    },
}  # fmt: skip


REFUSED = {"Interpolate", "MaxPool", "Unique"}
"""Cases that the device computes wrongly and that have no other way."""


@pytest.mark.parametrize("kind", UNBOUNDED)
@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
@pytest.mark.parametrize(
    "rows",
    [
        [[3, 2**24 + 1, 7, 2**24 + 3], [1, 2, 2**24 + 5, 2**24 + 1]],
        [[2**31 - 5, 2**31 - 6, 5, 2**31 - 7], [7, 2**31 - 5, 2**31 - 6, 2]],
        [[1, 2, 3, 4], [8, 7, 6, 5]],
    ],
)
async def test_integers_are_never_changed_by_what_computes_with_them(
    kind: str, datatype: str, rows: list[list[int]]
) -> None:
    of, by_numpy = UNBOUNDED[kind]
    values = np.array(rows, NUMPY_DTYPES[datatype])
    with np.errstate(over="ignore"):
        expected = by_numpy(values)
    got = await answer(loaded(one_input(of, datatype, (2, 4))), tensor(values, datatype))
    if isinstance(got, NumberNotCarried):
        assert kind in REFUSED
        assert expected.max() > 2**24
    else:
        np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "UINT64"])
@pytest.mark.parametrize("of", [np.add, np.subtract, np.multiply])
async def test_other_integers_wrap_as_they_do_in_numpy(datatype: str, of: Any) -> None:
    node = {np.add: ops.add, np.subtract: ops.subtract, np.multiply: ops.multiply}[of]
    ends = np.iinfo(NUMPY_DTYPES[datatype])
    values = np.array([[0, 1, 100, min(ends.max, INT32.max)]], NUMPY_DTYPES[datatype])
    two_ = NUMPY_DTYPES[datatype].type(2)
    model = one_input(lambda x: node(constant(2, datatype), x), datatype)
    await check(model, of(two_, values), tensor(values, datatype))


async def test_large_floats_become_integers_right() -> None:
    model = one_input(lambda x: ops.convert(x, "i64"), "FP32")
    await check(model, np.array([[2**40, -(2**33)]]), tensor([[2.0**40, -(2.0**33)]]))


async def test_floats_that_no_integer_holds_are_refused() -> None:
    version = loaded(one_input(lambda x: ops.convert(x, "i64"), "FP32"))
    error = await answer(version, tensor([[1e30, 1]]))
    assert isinstance(error, NumberNotCarried)
    assert "input 'x'" in error.message


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


async def test_a_member_that_is_refused_leaves_the_rest_of_its_batch_alone() -> None:
    version = loaded(one_input(lambda x: ops.add(x, constant(1))), stacking="always")
    async with serving(version) as served:
        first, bad, last = await served.ask(
            *([tensor([[value]], "INT64")] for value in (1, 2**40, 2 * BILLION))
        )
        assert 1 == served.stacked_batches
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


async def test_double_floats_that_overflow_in_a_large_model_are_refused() -> None:
    version = loaded(large(one_input(lambda x: ops.multiply(x, x), "FP64")))
    error = await answer(version, tensor([[1e30]], "FP64"))
    assert isinstance(error, NumberNotCarried)
    assert "output 'y'" in error.message


def number_check_of(model: ov.Model) -> NumberCheck | None:
    return loaded(model).numbers


@pytest.mark.parametrize(
    "model", [models.convolution(), models.add_one(), models.outputs_of_all_kinds()]
)
def test_models_whose_numbers_the_device_keeps_have_no_check(model: ov.Model) -> None:
    assert number_check_of(model) is None


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
