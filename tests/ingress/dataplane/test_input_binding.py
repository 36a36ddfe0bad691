from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import NUMPY_DTYPES
from deployments.dimensions import Dim
from deployments.errors import (
    DuplicateName,
    LimitExceeded,
    MissingInput,
    ServingError,
    UnknownInput,
    WrongDatatype,
    WrongDimension,
)
from deployments.inference import InputSpec, ModelInfo
from deployments.ingress.dataplane import input_binding as arrangements
from deployments.ingress.dataplane.input_binding import InputBindings
from deployments.tensors import Tensor

ROWS = 5
OPEN = Dim(0, None)


def model(version: str = "1", widest: int = 4) -> ModelInfo:
    inputs = (
        InputSpec("a", "FP32", (OPEN, Dim(0, widest)), batch_axis=0),
        InputSpec("b", "UINT8", (Dim(1, 3), OPEN), batch_axis=1),
    )
    return ModelInfo("model", version, (version,), inputs, (), 32)


def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, datatype, shape, np.zeros(shape, NUMPY_DTYPES[datatype]))


A, B = tensor("a", "FP32", (2, 3)), tensor("b", "UINT8", (1, 2))

requests = st.lists(
    st.builds(
        tensor,
        st.sampled_from("abc"),
        st.sampled_from(["FP32", "UINT8"]),
        st.tuples(st.integers(0, 6), st.integers(0, 6)),
    ),
    max_size=3,
)


def outcome(arranged: Callable[[], tuple[Sequence[Tensor], Any, int]]) -> Any:
    """The same tensors in the model's order, the key and the rows, or the error."""
    try:
        tensors, key, rows = arranged()
    except ServingError as error:
        return type(error), str(error)
    return [id(tensor) for tensor in tensors], key, rows


@given(st.lists(requests | st.permutations([A, B]), max_size=20))
def test_it_is_what_the_model_says_at_first_and_later(sent: list[list[Tensor]]) -> None:
    info, known = model(), InputBindings(ROWS)

    def asked(tensors: list[Tensor]) -> tuple[Sequence[Tensor], Any, int]:
        arranged = info.arrange(tensors)
        return arranged, *info.key_and_rows(arranged, ROWS)

    for tensors in sent * 2:
        assert outcome(partial(asked, tensors)) == outcome(partial(known.of, info, tensors))


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ([A], MissingInput),
        ([A, B, B], DuplicateName),
        ([A, B, tensor("c", "FP32", (1,))], UnknownInput),
        ([tensor("a", "UINT8", A.shape), B], WrongDatatype),
        ([tensor("a", "FP32", (2, 5)), B], WrongDimension),
        ([tensor("a", "FP32", (6, 3)), tensor("b", "UINT8", (1, 6))], LimitExceeded),
    ],
)
def test_what_is_remembered_of_one_request_is_not_taken_for_another(
    tensors: list[Tensor], error: type[ServingError]
) -> None:
    known = InputBindings(ROWS)
    for _ in range(2):
        known.of(model(), [B, A])
        with pytest.raises(error):
            known.of(model(), tensors)


def test_each_version_is_asked_itself() -> None:
    known = InputBindings(ROWS)
    known.of(model("1", widest=4), [A, B])
    with pytest.raises(WrongDimension):
        known.of(model("2", widest=2), [A, B])


def test_a_flood_of_shapes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangements, "_REMEMBERED", 10)
    known = InputBindings(100)
    for rows in range(100):
        _, _, counted = known.of(
            model(), [tensor("a", "FP32", (rows, 1)), tensor("b", "UINT8", (1, rows))]
        )
        assert rows == counted
        assert len(known._known) <= 10
