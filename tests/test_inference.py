import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES
from deployments.dimensions import parse_dims
from deployments.errors import (
    DuplicateName,
    LimitExceeded,
    MissingInput,
    ServingError,
    UnknownInput,
    UnknownOutput,
    WrongDatatype,
    WrongDimension,
    WrongRank,
)
from deployments.inference import (
    InputSpec,
    ModelInfo,
    ModelStatus,
    OutputSpec,
    ShapeKey,
    VersionStatus,
    elements_per_row,
)
from deployments.tensors import Tensor

PICTURE = InputSpec("picture", "FP32", parse_dims("(-1,3,200:500,300)"), 0, "NCHW")
TAKEN = "[-1,3,200:500,300]"
SIZE = InputSpec("size", "INT64", parse_dims("(2)"))
NAMES = InputSpec("names", BYTES, parse_dims("(-1,-1)"), 0)


def model(*inputs: InputSpec, outputs: tuple[str, ...] = ("boxes", "labels")) -> ModelInfo:
    specs = tuple(OutputSpec(name, "FP32", ()) for name in outputs)
    return ModelInfo("faces", "3", ("2", "3"), inputs, specs, 64)


def tensor(name: str, shape: tuple[int, ...] = (), datatype: str = "FP32") -> Tensor:
    """A tensor of that shape without its contents, which no test here reads."""
    return Tensor(name, datatype, shape, np.empty(0, np.float32))


# One input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 200, 300), (0, 3, 500, 300), (9, 3, 333, 300)])
def test_an_input_takes_what_its_dimensions_accept(shape: tuple[int, ...]) -> None:
    PICTURE.check(tensor("picture", shape))


@pytest.mark.parametrize(
    ("wrong", "error", "complaint"),
    [
        (
            tensor("picture", (1, 3, 300, 300), "FP16"),
            WrongDatatype,
            "input 'picture' has datatype FP16, the model takes FP32",
        ),
        (
            tensor("picture", (3, 300, 300)),
            WrongRank,
            "input 'picture' has 3 dimensions [3,300,300], the model takes 4 [-1,3,200:500,300]",
        ),
        (
            tensor("picture"),
            WrongRank,
            "input 'picture' has 0 dimensions [], the model takes 4 [-1,3,200:500,300]",
        ),
        (
            tensor("picture", (1, 4, 300, 300)),
            WrongDimension,
            f"input 'picture' has shape [1,4,300,300], dimension 1 is 4, the model takes {TAKEN}",
        ),
        (
            tensor("picture", (1, 3, 199, 301)),
            WrongDimension,
            f"input 'picture' has shape [1,3,199,301], dimension 2 is 199, the model takes {TAKEN}",
        ),
        (
            tensor("picture", (1, 3, 200, 299)),
            WrongDimension,
            f"input 'picture' has shape [1,3,200,299], dimension 3 is 299, the model takes {TAKEN}",
        ),
    ],
)
def test_an_input_says_why_it_does_not_take_a_tensor(
    wrong: Tensor, error: type[ServingError], complaint: str
) -> None:
    with pytest.raises(error) as raised:
        PICTURE.check(wrong)
    assert complaint == str(raised.value)


# All inputs and outputs -------------------------------------------------------------------------


@given(st.permutations([tensor("a"), tensor("b"), tensor("c")]))
def test_tensors_come_in_the_order_of_the_model(given_order: list[Tensor]) -> None:
    info = model(*(InputSpec(name, "FP32", ()) for name in ("b", "c", "a")))
    assert ["b", "c", "a"] == [tensor.name for tensor in info.arrange(given_order)]


@pytest.mark.parametrize(
    ("names", "error", "complaint"),
    [
        ("ab", MissingInput, "request lacks input 'c' of model 'faces'"),
        ("", MissingInput, "request lacks input 'a' of model 'faces'"),
        ("aabc", DuplicateName, "request names input 'a' more than once"),
        ("abzcy", UnknownInput, "model 'faces' has no input 'y', its inputs are a, b, c"),
    ],
)
def test_other_inputs_than_the_model_s_are_refused(
    names: str, error: type[ServingError], complaint: str
) -> None:
    info = model(*(InputSpec(name, "FP32", ()) for name in "abc"))
    with pytest.raises(error) as raised:
        info.arrange([tensor(name) for name in names])
    assert complaint == str(raised.value)


def test_every_input_is_checked() -> None:
    info = model(SIZE, PICTURE)
    with pytest.raises(WrongDimension, match="dimension 1 is 1"):
        info.arrange([tensor("picture", (1, 1, 300, 300)), tensor("size", (2,), "INT64")])


def test_a_model_without_inputs_takes_none() -> None:
    assert () == model().arrange([])
    with pytest.raises(UnknownInput, match="its inputs are none"):
        model().arrange([tensor("a")])


@pytest.mark.parametrize("wanted", [[], ["labels"], ["labels", "boxes"]])
def test_outputs_of_the_model_can_be_wanted_in_any_order(wanted: list[str]) -> None:
    model().check_outputs(wanted)


@pytest.mark.parametrize(
    ("wanted", "error", "complaint"),
    [
        (
            ["boxes", "scores"],
            UnknownOutput,
            "model 'faces' has no output 'scores', its outputs are boxes, labels",
        ),
        (
            ["boxes", "labels", "boxes"],
            DuplicateName,
            "request names output 'boxes' more than once",
        ),
    ],
)
def test_other_outputs_than_the_model_s_are_refused(
    wanted: list[str], error: type[ServingError], complaint: str
) -> None:
    with pytest.raises(error) as raised:
        model().check_outputs(wanted)
    assert complaint == str(raised.value)


# Shape keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shapes", "key", "rows"),
    [
        ([0], [(5, 3, 300, 300)], ((-1, 3, 300, 300),), 5),
        ([0], [(0, 3)], ((-1, 3),), 0),
        ([1], [(7, 5, 2)], ((7, -1, 2),), 5),
        ([0, None], [(5, 3), (2,)], ((-1, 3), (2,)), 5),
        ([0, 1], [(5, 3), (2, 5)], ((-1, 3), (2, -1)), 5),
        ([0, 0], [(5, 3), (4, 2)], ((5, 3), (4, 2)), 1),
        ([None], [(5, 3)], ((5, 3),), 1),
        ([None], [()], ((),), 1),
        ([], [], (), 1),
    ],
)
def test_the_key_leaves_out_the_rows_where_inputs_agree_on_them(
    axes: list[int | None],
    shapes: list[tuple[int, ...]],
    key: tuple[tuple[int, ...], ...],
    rows: int,
) -> None:
    info = model(*(InputSpec(str(i), "FP32", (), axis) for i, axis in enumerate(axes)))
    tensors = [tensor(str(i), shape) for i, shape in enumerate(shapes)]
    assert (key, rows) == info.key_and_rows(tensors, 100)


rests = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(st.tuples(rests, rests), st.tuples(rests, rests), st.integers(0, 9), st.integers(0, 9))
def test_keys_are_equal_where_shapes_differ_in_the_rows_alone(
    one: tuple[tuple[int, ...], ...], other: tuple[tuple[int, ...], ...], rows: int, others: int
) -> None:
    info = model(InputSpec("a", "FP32", (), 0), InputSpec("b", "FP32", (), 2))

    def key(rests: tuple[tuple[int, ...], ...], rows: int) -> ShapeKey:
        first, second = rests
        tensors = [tensor("a", (rows, *first)), tensor("b", (*second, rows))]
        key, counted = info.key_and_rows(tensors, 9)
        assert rows == counted
        return key

    assert (one == other) == (key(one, rows) == key(other, others))


@pytest.mark.parametrize("shapes", [[(5, 3), (5, 2)], [(1, 3), (5, 2)]])
def test_more_rows_than_the_limit_are_refused(shapes: list[tuple[int, ...]]) -> None:
    info = model(InputSpec("a", "FP32", (), 0), InputSpec("b", "FP32", (), 0))
    tensors = [tensor(name, shape) for name, shape in zip("ab", shapes, strict=True)]
    info.key_and_rows(tensors, 5)
    with pytest.raises(LimitExceeded, match=r"^batch of 5 exceeds limits.batch_rows \(4\)$"):
        info.key_and_rows(tensors, 4)


def test_a_dimension_without_rows_may_be_larger_than_the_limit_of_rows() -> None:
    info = model(InputSpec("a", "FP32", (), None), InputSpec("b", "FP32", (), 1))
    tensors = [tensor("a", (50,)), tensor("b", (50, 4))]
    assert (((50,), (50, -1)), 4) == info.key_and_rows(tensors, 4)


# Crossing processes -----------------------------------------------------------------------------


@pytest.mark.parametrize("info", [None, model(PICTURE, SIZE, NAMES)])
def test_a_model_s_info_survives_pickling(info: ModelInfo | None) -> None:
    version = VersionStatus("1", "UNAVAILABLE", "no internet", info)
    status = ModelStatus("UNAVAILABLE", "no internet", (version,))
    assert status == pickle.loads(pickle.dumps(status))
    assert hash(status) == hash(pickle.loads(pickle.dumps(status)))


def test_the_elements_of_a_row_are_counted_over_all_inputs() -> None:
    assert 3 * 4 + 5 + 1 == elements_per_row(((-1, 3, 4), (-1, 5), ()))
    assert 0 == elements_per_row(((-1, 0),))
