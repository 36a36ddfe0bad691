"""Shapes that a request may claim."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import InvalidShape, LimitExceeded
from deployments.tensors import checked_shape, from_bytes
from tests.strategies import numeric_datatypes


@pytest.mark.parametrize("shape", [[], [0], [1, 3, 300, 300], [0, 5], (2, 2)])
def test_a_shape_within_the_limits_is_taken(shape: list[int]) -> None:
    assert tuple(shape) == checked_shape("x", shape, rank=4, elements=270_000)


@pytest.mark.parametrize(
    "shape",
    [
        None,
        3,
        "12",
        b"12",
        {"1": 1},
        {1},
        [-1],
        [1, 2.0],
        [True],
        [None],
        ["1"],
        [[1]],
        [1, -(2**70)],
    ],
)
def test_invalid_lists_of_sizes_are_refused(shape: object) -> None:
    with pytest.raises(InvalidShape, match=r"^input 'x' has shape .*, not a list of integers"):
        checked_shape("x", shape, rank=8, elements=100)


def test_a_shape_nested_deeper_than_python_can_print_is_refused_in_few_words() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidShape) as error:
        checked_shape("x", nested, rank=8, elements=100)
    assert len(error.value.message) < 300


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ([1] * 5, "rank of input 'x' of 5 exceeds limits.rank (4)"),
        ([101], "element count of input 'x' of 101 exceeds limits.elements (100)"),
        ([2**32, 2**32], f"element count of input 'x' of {2**64} exceeds limits.elements (100)"),
        ([0, 2**62, 4], f"element count of input 'x' of {2**64} exceeds limits.elements (100)"),
        (
            [2**64 - 1, 0],
            f"element count of input 'x' of {2**64 - 1} exceeds limits.elements (100)",
        ),
    ],
)
def test_a_shape_over_a_limit_is_refused_with_the_limit(shape: list[int], complaint: str) -> None:
    with pytest.raises(LimitExceeded) as error:
        checked_shape("x", shape, rank=4, elements=100)
    assert complaint == error.value.message


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**65)), max_size=8), numeric_datatypes)
def test_a_tensor_can_be_made_of_every_shape_that_passes(shape: list[int], datatype: str) -> None:
    try:
        checked = checked_shape("x", shape, rank=8, elements=1000)
    except LimitExceeded:
        assert max(shape) > 5 or prod(n for n in shape if n) > 1000
        return
    body = np.zeros(prod(checked) * NUMPY_DTYPES[datatype].itemsize, np.uint8)
    assert tuple(shape) == from_bytes("x", datatype, checked, body).shape
