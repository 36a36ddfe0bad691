"""Agreement of two answers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BF16, BYTES
from deployments.model.tuning.agreement import difference, tolerance
from deployments.tensors import Tensor, float32_to_bf16
from tests.model.loading import tensor

DETECTIONS = [[0, 1, 0.9, 0.1, 0.1, 0.2, 0.2], [0, 1, 0.8, 0.5, 0.5, 0.6, 0.7]]
OF_ANOTHER = [[1, 1, 0.7, 0.3, 0.3, 0.4, 0.4]]


def differ(one: Tensor, other: Tensor, *, detections: bool = False) -> float:
    return difference([one], [other], [detections]).largest


def detected(rows: list[list[float]], capacity: int = 8) -> Tensor:
    table = np.zeros((1, 1, capacity, 7), np.float32)
    table[0, 0, : len(rows)] = np.reshape(rows, (-1, 7))
    if len(rows) < capacity:
        table[0, 0, len(rows), 0] = -1
    return tensor(table)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 100], [1, 100], 0.0),
        ([1, 100], [1.5, 100], 0.005),
        ([0, 0], [0, 0], 0.0),
        ([0, 0], [0, 1e-9], 1.0),
        ([1, np.nan], [1, np.nan], 0.0),
        ([1, np.nan], [1, 2], 1.0),
        ([1, np.inf], [1, np.inf], 0.0),
        ([1, np.inf], [1, -np.inf], 1.0),
        ([1, 2], [[1, 2]], 1.0),
        ([], [], 0.0),
        ([-8, 1], [8, 1], 1.0),
    ],
)
def test_floats_differ_by_their_part_of_the_largest(one: Any, other: Any, expected: float) -> None:
    assert expected == pytest.approx(differ(tensor(one), tensor(other)))


@pytest.mark.parametrize("datatype", ["INT64", "UINT8", "BOOL", BYTES])
def test_what_is_not_a_float_differs_or_does_not(datatype: str) -> None:
    one, other = ([b"a", b"b"], [b"a", b"c"]) if datatype == BYTES else ([0, 1], [1, 1])
    assert 0 == differ(tensor(one, datatype), tensor(one, datatype))
    assert 1 == differ(tensor(one, datatype), tensor(other, datatype))


def test_bf16_is_compared_by_its_values() -> None:
    one, other = (float32_to_bf16(np.array([value, 8], np.float32)) for value in (2, 4))
    assert 0.25 == differ(Tensor("y", BF16, (2,), one), Tensor("y", BF16, (2,), other))


def test_the_output_that_differs_most_is_named() -> None:
    one = [tensor([1.0], name="a"), tensor([1.0], name="b"), tensor([1.0], name="c")]
    other = [tensor([1.0], name="a"), tensor([0.5], name="b"), tensor([0.9], name="c")]
    found = difference(one, other, [False] * 3)
    assert ("b", 0.5) == (found.output, found.largest)


def test_the_order_of_detections_says_nothing() -> None:
    one = detected([*DETECTIONS, *OF_ANOTHER])
    other = detected([*OF_ANOTHER, *DETECTIONS[::-1]])
    assert 0 == differ(one, other, detections=True)
    assert 0 < differ(one, other)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([DETECTIONS[0], [0, 1, 0.8, 0.5, 0.5, 0.6, 0.7]], 0.0),
        ([DETECTIONS[1]], 0.1),
        ([], 0.9),
        ([DETECTIONS[0], [0, 1, 0.8, 0.5, 0.5, 0.6, 0.9]], 0.2),
        ([DETECTIONS[0], [0, 2, 0.8, 0.5, 0.5, 0.6, 0.7]], 1.0),
        ([DETECTIONS[0], [1, 1, 0.8, 0.5, 0.5, 0.6, 0.7]], 0.8),
    ],
    ids=["nothing", "a sure one is missing", "none", "a box", "a label", "another image"],
)
def test_detections_differ_by_image_and_label(rows: list[list[float]], expected: float) -> None:
    found = differ(detected(DETECTIONS), detected(rows), detections=True)
    assert expected == pytest.approx(found, abs=1e-6)


def test_where_the_list_of_detections_ends_rounding_decides() -> None:
    unsure = [0, 1, 0.7999, 0.3, 0.3, 0.4, 0.4]
    one, other = detected([*DETECTIONS, unsure]), detected(DETECTIONS)
    assert 0 == differ(one, other, detections=True)
    assert 0 == differ(other, one, detections=True)


@given(
    st.lists(st.integers(-(2**20), 2**20).map(float), min_size=1),
    st.integers(-(2**20), 2**20).map(float),
)
def test_a_difference_is_the_same_both_ways_and_between_0_and_1(
    values: list[float], other: float
) -> None:
    one, two = tensor(values), tensor([other, *values[1:]])
    assert differ(one, two) == differ(two, one)
    assert 0 <= differ(one, two) <= 1
    assert 0 == differ(one, one)


def test_fewer_bits_may_differ_more() -> None:
    assert 1e-4 == tolerance("f32") < tolerance("f16") < tolerance("bf16")
    assert tolerance(None) == tolerance("no such precision") > tolerance("f32")
