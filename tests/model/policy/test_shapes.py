"""Which shapes a model accepts."""

from collections.abc import Sequence
from typing import Any, Literal

import openvino as ov
import pytest

from deployments.dimensions import Dim, parse_dims
from deployments.model.openvino.runtime import ModelInput
from deployments.model.openvino.spots import spots_model
from deployments.model.policy.shapes import PolicyError, accepted_dims
from tests.model import models
from tests.model.policy.input_specs import Rules, specs


def accepted(
    model: ov.Model, rules: Rules = "auto", batch_size: int | Literal["auto"] = "auto"
) -> list[str]:
    return [
        f"{spec.name}({','.join(map(str, spec.dims))})" for spec in specs(model, rules, batch_size)
    ]


def refusal(model: ov.Model, rules: Rules, batch_size: int | Literal["auto"] = "auto") -> str:
    with pytest.raises(PolicyError) as failure:
        specs(model, rules, batch_size)
    return str(failure.value)


# auto -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(models.add_one((1, 4)), ["x(-1,-1)"], id="free"),
        pytest.param(models.add_one((3,)), ["x(-1)"], id="a vector"),
        pytest.param(models.add_one(()), ["x()"], id="a scalar"),
        pytest.param(models.add_one((0, 4)), ["x(-1,-1)"], id="nothing in it"),
        pytest.param(models.add_one((2,) * 7), ["x(-1,-1,-1,-1,-1,-1,-1)"], id="seven dimensions"),
        pytest.param(models.convolution(), ["x(-1,3,-1,-1)"], id="weights fix the channels"),
        pytest.param(models.convolution((2, 3, 3, 3)), ["x(-1,3,-1,-1)"], id="sizes like channels"),
        pytest.param(models.even_sizes(), ["x(-1,3,-1,-1)"], id="even sizes only"),
        pytest.param(models.fixed_batch(), ["x(4,6)"], id="a constant shape"),
        pytest.param(models.agreeing(), ["a(-1,-1)", "b(-1,-1)"], id="inputs change together"),
        pytest.param(models.scaled(), ["x(-1,-1,-1)", "scale(-1,-1)"], id="different ranks"),
        pytest.param(models.scaled_by_scalar(), ["x(-1,-1)", "scale()"], id="beside a scalar"),
        pytest.param(models.positive_places(), ["x(-1)"], id="output depends on data"),
        pytest.param(models.refuses_open_dimensions(), ["x(-1,8,-1,-1)"], id="compiles static"),
        pytest.param(models.without_inputs(), [], id="no inputs"),
        pytest.param(spots_model(), ["data(-1,3,-1,-1)"], id="a detector"),
    ],
)
def test_auto_opens_what_the_model_can_be_reshaped_along(
    model: ov.Model, expected: list[str]
) -> None:
    assert expected == accepted(model)


def test_auto_keeps_the_bounds_of_dimensions_that_the_model_leaves_open() -> None:
    model = models.add_one((-1, ov.Dimension(2, 8), 4))
    assert ["x(-1,2:8,-1)"] == accepted(model)


@pytest.mark.parametrize("shape", [(-1, 3, 8, 8), (1, 3, -1, -1), (-1, 3, -1, -1)])
def test_auto_closes_what_a_dynamic_model_cannot_change(shape: tuple[int, ...]) -> None:
    assert ["x(-1,3,-1,-1)"] == accepted(models.convolution(shape))


def test_auto_asks_for_nothing_that_is_not_reshaped_to() -> None:
    asked: list[Any] = []
    inputs = [ModelInput("x", "FP32", parse_dims("(0,4)"))]

    def reshapes(shapes: Sequence[Sequence[Dim | int]]) -> bool:
        asked.append(shapes)
        return False

    assert (parse_dims("(0,4)"),) == accepted_dims(inputs, "auto", "auto", reshapes)
    assert asked
    assert [[0, 4]] not in asked


# Rules ------------------------------------------------------------------------------------------


def test_a_rule_is_accepted_as_it_is_written() -> None:
    assert ["x(-1,3,2:9,8)"] == accepted(models.convolution(), "(-1,3,2:9,8)")


def test_rules_by_name_leave_the_other_inputs_as_they_are() -> None:
    assert ["x(-1,-1,-1)", "scale(1,3)"] == accepted(models.scaled(), {"x": "auto"})
    rules = {"scale": "(1:2,3)", "x": "(1:2,3,-1)"}
    assert ["x(1:2,3,-1)", "scale(1:2,3)"] == accepted(models.scaled(), rules)


def test_auto_for_all_inputs_is_auto_for_each() -> None:
    assert accepted(models.agreeing(), "auto") == accepted(
        models.agreeing(), {"a": "auto", "b": "auto"}
    )


def test_a_batch_size_fixes_the_first_dimension_of_every_input_that_has_one() -> None:
    assert ["x(7,3,-1,-1)"] == accepted(models.convolution(), "auto", 7)
    assert ["x(7,3,8,-1)"] == accepted(models.convolution(), "(-1,3,8,-1)", 7)
    assert ["a(2,-1)", "b(2,-1)"] == accepted(models.agreeing(), "auto", 2)
    assert ["x(5,-1)", "scale()"] == accepted(models.scaled_by_scalar(), "auto", 5)
    assert ["x(7,4)", "scale()"] == accepted(models.scaled_by_scalar(), {"scale": "()"}, 7)


def test_errors_about_contradictions_with_the_model_have_names_and_numbers() -> None:
    cases: list[tuple[ov.Model, Rules, int | Literal["auto"], str]] = [
        (
            models.convolution(),
            {"image": "auto"},
            "auto",
            "shape names input 'image', the model's inputs are x",
        ),
        (
            models.agreeing(),
            "(1,4)",
            "auto",
            "shape is one shape for a model of 2 inputs, write one for each: a, b",
        ),
        (
            models.convolution(),
            "(1,3,8)",
            "auto",
            "shape (1,3,8) has 3 dimensions, input 'x' has 4",
        ),
        (
            models.scaled(),
            {"scale": "(-1,3,4:8)"},
            "auto",
            "shape (-1,3,4:8) has 3 dimensions, input 'scale' has 2",
        ),
        (
            models.convolution(),
            "(1,4,8,8)",
            "auto",
            "the model cannot be reshaped to x (1,4,8,8), which shape and batch_size ask for",
        ),
        (
            models.even_sizes(),
            "(1,3,7,8)",
            "auto",
            "the model cannot be reshaped to x (1,3,7,8), which shape and batch_size ask for",
        ),
        (
            models.agreeing(),
            {"a": "(1,4)", "b": "(1,5)"},
            "auto",
            "the model cannot be reshaped to a (1,4), b (1,5), which shape and batch_size ask for",
        ),
        (
            models.fixed_batch(),
            "auto",
            2,
            "the model cannot be reshaped to x (2,6), which shape and batch_size ask for",
        ),
        (
            models.agreeing(),
            {"a": "(1:2,4)", "b": "(1:4,4)"},
            4,
            "batch_size 4 contradicts shape (1:2,4) of input 'a'",
        ),
    ]
    for model, rules, batch_size, expected in cases:
        assert expected == refusal(model, rules, batch_size)


@pytest.mark.parametrize("rules", ["(1,3,12,8)", "(-1,3,9:100,-1)", "(1,3,8,8)"])
def test_rules_that_the_model_can_follow_are_no_contradiction(rules: str) -> None:
    assert [f"x{rules}"] == accepted(models.even_sizes(), rules)
