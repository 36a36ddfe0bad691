import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES, DATATYPES, NUMPY_DTYPES
from deployments.dimensions import Dim
from deployments.inference import InputSpec
from deployments.model.graph.rows.outputs import Detections, OutputRule, RowsAlong
from deployments.model.openvino.spots import spots_model
from deployments.model.tuning.random_inputs import random_rows
from deployments.model.tuning.stacking import RowsLost, scatter, stack
from deployments.tensors import Array, Tensor, bf16_to_float32
from examples.spots_picture import random_spots, spots_picture
from tests.model import models
from tests.model.loading import loaded
from tests.strategies import contents, datatypes

ANY = Dim(0, None)


def filled(datatype: str, shape: Sequence[int], seed: int) -> Tensor:
    bits = np.random.default_rng(seed).integers(0, 255, int(np.prod(shape)), np.uint8)
    if datatype == BYTES:
        return Tensor("x", BYTES, tuple(shape), [b"%d\0" % n for n in bits])
    return Tensor("x", datatype, tuple(shape), bits.reshape(shape).astype(NUMPY_DTYPES[datatype]))


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The outputs of a model that works on each row by itself."""
    arrays = [
        np.array(part.data, object).reshape(part.shape) if part.datatype == BYTES else part.data
        for part in parts
    ]
    data: Any = np.concatenate(arrays, axis)
    first = parts[0]
    shape = data.shape
    return Tensor(
        first.name,
        first.datatype,
        shape,
        data.ravel().tolist() if first.datatype == BYTES else np.ascontiguousarray(data),
    )


# Together and apart -----------------------------------------------------------------------------

rows_of_members = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@given(datatypes, rows_of_members, st.lists(st.integers(0, 3), max_size=3))
def test_stacked_outputs_split_again(datatype: str, rows: list[int], others: list[int]) -> None:
    members = [[filled(datatype, (count, *others), i)] for i, count in enumerate(rows)]
    (stacked,) = stack(members)
    assert (sum(rows), *others) == stacked.shape
    apart = scatter([stacked], [RowsAlong(0, 1)], rows)
    for (expected,), (actual,) in zip(members, apart, strict=True):
        assert contents(expected) == contents(actual)


@given(
    datatypes,
    rows_of_members,
    st.integers(0, 3),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.integers(0, 3),
)
def test_rows_are_taken_apart_along_any_axis_and_several_for_each(
    datatype: str, rows: list[int], each: int, others: list[int], axis: int
) -> None:
    expected = [
        filled(datatype, (*others[:axis], each * count, *others[axis:]), i)
        for i, count in enumerate(rows)
    ]
    apart = scatter([joined(expected, axis)], [RowsAlong(axis, each)], rows)
    for wanted, (actual,) in zip(expected, apart, strict=True):
        assert contents(wanted) == contents(actual)
        assert isinstance(actual.data, list) or actual.data.flags.c_contiguous


def test_each_member_gets_its_part_of_every_output() -> None:
    outputs = [filled("FP32", (3, 2), 0), filled("INT64", (2, 6), 1)]
    rules: list[OutputRule] = [RowsAlong(0, 1), RowsAlong(1, 2)]
    first, second = scatter(outputs, rules, [1, 2])
    assert [(1, 2), (2, 2)] == [part.shape for part in first]
    assert [(2, 2), (2, 4)] == [part.shape for part in second]


def test_a_single_member_is_neither_copied_nor_cut() -> None:
    tensor = filled("FP32", (3, 2), 0)
    assert stack([[tensor]])[0] is tensor
    assert scatter([tensor], [RowsAlong(0, 1)], [3])[0][0] is tensor


@pytest.mark.parametrize("count", [2, 4])
def test_lost_and_invented_rows_are_noticed(count: int) -> None:
    output = filled("FP32", (count, 5), 0)
    with pytest.raises(RowsLost, match=rf"output 'x' has shape \({count}, 5\) for 3 rows"):
        scatter([output], [RowsAlong(0, 1)], [1, 2])
    with pytest.raises(RowsLost):
        scatter([table([], 200 * count)], [Detections(200)], [1, 2])


# Detections -------------------------------------------------------------------------------------


def table(found: Sequence[Sequence[float]], capacity: int) -> Tensor:
    """The output of a DetectionOutput that found these rows."""
    data = np.zeros((1, 1, capacity, 7), np.float32)
    data[0, 0, : len(found)] = np.reshape(found, (-1, 7))
    if len(found) < capacity:
        data[0, 0, len(found), 0] = -1
    return Tensor("detections", "FP32", data.shape, data)


@st.composite
def detections_of_members(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """The number of rows for each image, and the number used by each."""
    each = draw(st.integers(1, 4))
    member = st.lists(st.integers(0, each), min_size=1, max_size=3)
    return each, draw(st.lists(member, min_size=2, max_size=4))


@given(detections_of_members())
def test_detections_come_out_as_if_each_member_had_been_alone(
    case: tuple[int, list[list[int]]],
) -> None:
    each, members = case
    random = np.random.default_rng(0)
    alone, together, first_image = [], [], 0
    for member in members:
        found = [[image, *random.random(6)] for image, n in enumerate(member) for _ in range(n)]
        alone.append(table(found, each * len(member)))
        together += [[first_image + image, *rest] for image, *rest in found]
        first_image += len(member)
    stacked = table(together, each * first_image)
    apart = scatter([stacked], [Detections(each)], [len(member) for member in members])
    for expected, (actual,) in zip(alone, apart, strict=True):
        assert contents(expected) == contents(actual)


@pytest.fixture(scope="module")
def spots() -> Any:
    return loaded(spots_model(), stacking="always").reshape(((-1, 3, 120, 160),))()


def picture(*counts: int) -> list[Tensor]:
    """Pictures with these numbers of spots, as one tensor."""
    pictures = [
        spots_picture(160, 120, random_spots(160, 120, count, seed=count), seed=count)
        for count in counts
    ]
    data = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)
    return [Tensor("data", "FP32", data.shape, np.ascontiguousarray(data))]


def used(output: Tensor) -> Array:
    """The rows before the first that starts with -1."""
    rows = np.asarray(output.data)[0, 0]
    unused = np.flatnonzero(rows[:, 0] == -1)
    return np.asarray(rows[: unused[0]] if unused.size else rows)


def test_a_stacked_detector_finds_what_it_finds_alone(spots: Any) -> None:
    members = [picture(2), picture(0), picture(3, 0, 1), picture(1)]
    stacked = spots.infer(stack(members))
    apart = scatter(stacked, [Detections(200)], [1, 1, 3, 1])
    for member, (actual,) in zip(members, apart, strict=True):
        (expected,) = spots.infer(member)
        assert expected.shape == actual.shape
        np.testing.assert_array_equal(used(expected), used(actual))
    assert 2 <= len(used(apart[0][0]))
    assert {0.0, 2.0} <= set(used(apart[2][0])[:, 0])


# Proofs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(models.add_one((1, 4)), (RowsAlong(0, 1),), id="rows"),
        pytest.param(models.add_one((4, 6)), (RowsAlong(0, 1),), id="written for four rows"),
        pytest.param(models.add_one((1, 0)), (RowsAlong(0, 1),), id="nothing in them"),
        pytest.param(models.add_one((-1,), ov.Type.bf16), (RowsAlong(0, 1),), id="dynamic"),
        pytest.param(models.add_one((1, 2), ov.Type.string), (RowsAlong(0, 1),), id="strings"),
        pytest.param(models.agreeing(), (RowsAlong(0, 1),), id="two inputs"),
        pytest.param(models.scaled(), (RowsAlong(0, 1),), id="of different ranks"),
        pytest.param(
            models.outputs_with_rows(),
            (RowsAlong(0, 1), RowsAlong(1, 1), RowsAlong(0, 2)),
            id="several outputs",
        ),
        pytest.param(models.convolution(), (RowsAlong(0, 1),), id="pictures"),
        pytest.param(spots_model(), (Detections(200),), id="a detector"),
    ],
)
def test_stacking_is_proven_where_rows_do_not_mix(
    model: ov.Model, expected: tuple[OutputRule, ...]
) -> None:
    stacking = loaded(model, stacking="always").stacking
    assert stacking is not None
    assert expected == stacking.rules


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(models.mixed_rows("softmax"), "Softmax at .* works across rows", id="softmax"),
        pytest.param(models.mixed_rows("less mean"), "ReduceMean at .* works across", id="mean"),
        pytest.param(models.mixed_rows("running sum"), "CumSum at .* works across", id="sum"),
        pytest.param(models.mixed_rows("plus first"), "Gather at .* works across", id="first row"),
        pytest.param(models.outputs_of_all_kinds(), "ReduceMean at .* works", id="no rows"),
        pytest.param(models.positive_places(), "NonZero at .* is not known", id="values"),
        pytest.param(models.fixed_batch(), "input 'x' has no open number of rows", id="fixed"),
        pytest.param(models.scaled_by_scalar(), "input 'scale' has no open number", id="no batch"),
        pytest.param(models.add_one(()), "input 'x' has no open number of rows", id="a scalar"),
        pytest.param(models.without_inputs(), "output 'y' has no rows", id="no inputs"),
        pytest.param(models.refuses_open_dimensions(), "has no open number of rows", id="closed"),
    ],
)
def test_stacking_is_refused_where_it_is_not_proven(model: ov.Model, reason: str) -> None:
    version = loaded(model, stacking="always")
    assert version.stacking is None
    assert version.stacking_reason is not None
    assert re.search(reason, version.stacking_reason)


@pytest.mark.parametrize(("batch", "proven"), [("1:2", False), ("2:8", False), ("1:3", True)])
def test_a_range_of_rows_has_to_allow_the_proof(batch: str, proven: bool) -> None:
    version = loaded(models.add_one((1, 4)), shape=f"({batch},4)", stacking="always")
    assert proven == (version.stacking is not None)


# Random rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (1, 2, 3, 1, 2)])
def test_random_rows_have_the_shape_and_the_datatype(datatype: str, shape: tuple[int, ...]) -> None:
    spec = InputSpec("x", datatype, (ANY,) * len(shape))
    (tensor,) = random_rows([spec], [shape], 0)
    assert ("x", datatype, shape) == (tensor.name, tensor.datatype, tensor.shape)
    if isinstance(tensor.data, list):
        assert int(np.prod(shape)) == len(tensor.data)
    else:
        assert shape == tensor.data.shape
        assert NUMPY_DTYPES[datatype] == tensor.data.dtype
        assert tensor.data.flags.c_contiguous


@pytest.mark.parametrize("datatype", ["UINT8", "INT32", "FP16", "BF16", "FP32"])
@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (2, 3, 50, 70)), ("NHWC", (1, 50, 70, 1))])
def test_random_pictures_go_from_black_to_white(
    datatype: str, layout: Any, shape: tuple[int, ...]
) -> None:
    spec = InputSpec("x", datatype, (ANY,) * 4, 0, layout)
    (tensor,) = random_rows([spec], [shape], 0)
    values = np.asarray(tensor.data)
    if datatype == "BF16":
        values = bf16_to_float32(values)
    assert 0 <= values.min() < 60
    assert 200 < values.max() <= 255


def test_random_rows_differ_by_their_seed_only() -> None:
    spec = InputSpec("x", "FP32", (ANY, ANY), 0)
    first, again, other = (random_rows([spec], [(1, 9)], seed)[0] for seed in (1, 1, 2))
    assert contents(first) == contents(again)
    assert not np.array_equal(np.asarray(first.data), np.asarray(other.data))
