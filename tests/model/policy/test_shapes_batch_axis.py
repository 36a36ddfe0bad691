"""Along which dimension requests are batched."""

from collections.abc import Sequence

import openvino as ov
import pytest

from deployments.dimensions import Dim, parse_dims
from deployments.layouts import parse_layout_rule
from deployments.model.openvino.runtime import ModelInput
from deployments.model.policy.shapes import accepted_dims, trial_shapes, with_batch_axis
from tests.model import models
from tests.model.policy.input_specs import Rules, specs


@pytest.mark.parametrize(
    ("model", "rules", "expected"),
    [
        pytest.param(models.convolution(), "auto", [0], id="open"),
        pytest.param(models.convolution(), "(2:9,3,8,8)", [0], id="a range"),
        pytest.param(models.convolution(), "(1,3,-1,-1)", [None], id="fixed by the rule"),
        pytest.param(models.fixed_batch(), "auto", [None], id="fixed by the model"),
        pytest.param(models.add_one(()), "auto", [None], id="a scalar has none"),
        pytest.param(models.agreeing(), "auto", [0, 0], id="both"),
        pytest.param(models.scaled_by_scalar(), "auto", [0, None], id="one of them"),
        pytest.param(models.scaled(), {"x": "auto"}, [0, None], id="broadcast"),
        pytest.param(models.convolution((-1, 3, -1, -1)), "auto", [0], id="natively dynamic"),
        pytest.param(models.without_inputs(), "auto", [], id="no inputs"),
    ],
)
def test_the_batch_axis_is_the_first_dimension_where_it_can_stay_open(
    model: ov.Model, rules: Rules, expected: list[int | None]
) -> None:
    assert expected == [spec.batch_axis for spec in specs(model, rules)]


@pytest.mark.parametrize(
    ("layout", "axis", "trial"),
    [("CN", 1, (4, 1)), ("NC", 0, (1, 5)), ("HW", None, (4, 5)), (None, 0, (1, 5))],
)
def test_one_row_is_tried_along_the_batch_of_the_layout(
    layout: str | None, axis: int | None, trial: tuple[int, ...]
) -> None:
    rule = None if layout is None else parse_layout_rule(layout).target
    inputs = [ModelInput("x", "FP32", parse_dims("(4,5)"), rule)]
    dims = [parse_dims("(-1,-1)")]
    assert (trial,) == next(iter(trial_shapes(inputs, dims)))
    assert [axis] == [spec.batch_axis for spec in with_batch_axis(inputs, dims, lambda _: True)]


def test_a_batch_size_is_for_inputs_that_have_a_batch() -> None:
    layouts = [parse_layout_rule(text).target for text in ("CN", "HW")]
    inputs = [
        ModelInput(name, "FP32", parse_dims("(2,3)"), layout)
        for name, layout in zip("ab", layouts, strict=True)
    ]
    accepted = accepted_dims(inputs, {}, 7, lambda _: True)
    assert (parse_dims("(2,7)"), parse_dims("(2,3)")) == accepted


def test_an_open_first_dimension_that_cannot_be_compiled_open_is_no_batch_axis() -> None:
    def fixed_numbers_only(shapes: Sequence[Sequence[Dim | int]]) -> bool:
        return all(isinstance(dim, int) or dim.fixed is not None for s in shapes for dim in s)

    inputs = [ModelInput("x", "FP32", parse_dims("(1,4)"))]
    (spec,) = with_batch_axis(inputs, [parse_dims("(-1,4)")], fixed_numbers_only)
    assert spec.batch_axis is None
