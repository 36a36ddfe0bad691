"""Foresight of inferences by reshaped copies of a model."""

import random
from collections.abc import Callable, Sequence

import openvino as ov
import pytest

from deployments.dimensions import Dim
from deployments.inference import InputShapes
from deployments.model.openvino.reshaping import ReshapePreview, reshaped
from tests.model import models

ANY = Dim(0, None)
SIZES = (1, 2, 3, 4, 5, 8, 17, 32)
PICTURES, SEQUENCES = (ANY, 3, ANY, ANY), (ANY, 1, ANY)


def said(ask: Callable[[InputShapes], bool], shapes: InputShapes) -> bool | str:
    try:
        return ask(shapes)
    except RuntimeError:
        return "refused"


@pytest.mark.parametrize(
    ("model", "dims", "expected"),
    [
        (models.even_sizes(), PICTURES, {True, "refused"}),
        (models.pooled(), SEQUENCES, {True, "refused"}),
        (models.one_or_two_rows(), SEQUENCES, {True, "refused"}),
        (models.positive_places(), (ANY,), {False}),
    ],
)
def test_a_copy_that_is_used_again_says_what_a_fresh_one_says(
    model: ov.Model, dims: Sequence[Dim | int], expected: set[bool | str]
) -> None:
    model, random_ = reshaped(model, [dims]), random.Random(1)
    foresight, seen = ReshapePreview(model), set[bool | str]()

    def fresh_says(shapes: InputShapes) -> bool:
        return not reshaped(model, shapes).is_dynamic()

    for _ in range(100):
        sizes = [dim if isinstance(dim, int) else random_.choice(SIZES) for dim in dims]
        shapes = (tuple(sizes),)
        fresh = said(fresh_says, shapes)
        assert fresh == said(foresight.says_it_runs, shapes)
        seen.add(fresh)
    assert expected == seen


def test_of_tensors_without_elements_it_does_not_tell_unless_the_model_refuses_them() -> None:
    foresight = ReshapePreview(reshaped(models.even_sizes(), [PICTURES]))
    for _ in range(2):
        assert foresight.says_it_runs(((1, 3, 8, 8),))
        assert not foresight.says_it_runs(((0, 3, 8, 8),))
        with pytest.raises(RuntimeError):
            foresight.says_it_runs(((0, 3, 8, 7),))
