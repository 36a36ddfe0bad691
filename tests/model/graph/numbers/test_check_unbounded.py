"""Integers in operations whose results no bounds are planned for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from openvino import opset15 as ops

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import NumberNotCarried
from deployments.tensors import Array
from tests.model.graph.numbers.answers import answer
from tests.model.graph.numbers.number_models import INT32, constant, one_input
from tests.model.loading import loaded, tensor


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
