from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.dimensions import Dim, ShapeRule, parse_dims, parse_shape_rule
from deployments.inference import InputSpec
from deployments.layouts import parse_layout_rule
from deployments.model.openvino.runtime import CannotReshape, ModelInput, Runtime
from deployments.model.openvino.spots import spots_model
from deployments.model.policy.shapes import (
    PolicyError,
    accepted_dims,
    to_compile,
    trial_key,
    trial_shapes,
    with_batch_axis,
)
from tests.model import models

RUNTIME = Runtime("CPU", {})
Rules = str | Mapping[str, str]


def can_reshape(model: ov.Model) -> Callable[[Sequence[Sequence[Dim | int]]], bool]:
    def reshapes(shapes: Sequence[Sequence[Dim | int]]) -> bool:
        try:
            RUNTIME.reshaped(model, shapes)
        except CannotReshape:
            return False
        return True

    return reshapes


def specs(
    model: ov.Model, rules: Rules = "auto", batch_size: int | Literal["auto"] = "auto"
) -> tuple[InputSpec, ...]:
    read: ShapeRule | dict[str, ShapeRule] = (
        parse_shape_rule(rules)
        if isinstance(rules, str)
        else {name: parse_shape_rule(text) for name, text in rules.items()}
    )
    inputs, reshapes = RUNTIME.inputs(model), can_reshape(model)
    return with_batch_axis(inputs, accepted_dims(inputs, read, batch_size, reshapes), reshapes)


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


# The batch axis and pictures --------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("rule", "datatype", "expected"),
    [
        ("(-1,3,-1,-1)", "FP32", "NCHW"),
        ("(-1,1,-1,-1)", "UINT8", "NCHW"),
        ("(-1,-1,-1,3)", "UINT8", "NHWC"),
        ("(4,300,300,1)", "FP16", "NHWC"),
        ("(-1,4,-1,-1)", "FP32", None),
        ("(-1,-1,-1,-1)", "FP32", None),
        ("(-1,3,-1)", "FP32", None),
        ("(-1,1:3,8,8)", "FP32", None),
        ("(-1,3,-1,-1)", "BYTES", None),
    ],
)
def test_pictures_are_inputs_of_four_dimensions_with_one_or_three_channels(
    rule: str, datatype: str, expected: str | None
) -> None:
    dims = parse_dims(rule)
    (spec,) = with_batch_axis([ModelInput("x", datatype, dims)], [dims], lambda _: True)
    assert expected == spec.pictures


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("NHWC", "NHWC"),
        ("N...", "NHWC"),
        ("N??C", "NHWC"),
        ("...C", "NHWC"),
        ("????", "NHWC"),
        ("NCHW", None),
        ("CHWN", None),
        ("NWHC", None),
        ("NDHC", None),
    ],
)
def test_pictures_are_where_the_layout_allows_them(layout: str, expected: str | None) -> None:
    dims = parse_dims("(-1,-1,-1,3)")
    own = parse_layout_rule(layout).target
    (spec,) = with_batch_axis([ModelInput("x", "FP32", dims, own)], [dims], lambda _: True)
    assert (expected, layout) == (spec.pictures, spec.layout)


# Trial shapes and keys --------------------------------------------------------------------------


def trials(own: str, rule: str) -> list[tuple[int, ...]]:
    inputs = [ModelInput("x", "FP32", parse_dims(own))]
    return [shape for (shape,) in trial_shapes(inputs, [parse_dims(rule)])]


def test_a_model_is_tried_at_its_own_shape_with_one_row_first_and_then_as_it_is() -> None:
    assert [(1, 3, 8, 8), (4, 3, 8, 8)] == trials("(4,3,8,8)", "(-1,3,-1,-1)")


def test_a_closed_batch_is_kept() -> None:
    assert [(4, 6)] == trials("(4,6)", "(4,6)")


def test_open_dimensions_are_guessed() -> None:
    shapes = trials("(-1,3,-1,-1)", "(-1,3,-1,-1)")
    assert (1, 3, 64, 64) == shapes[0]
    assert (1, 3, 1, 1) in shapes
    assert len(shapes) == len(set(shapes))


def test_the_model_s_own_sizes_give_way_to_the_rule() -> None:
    assert (2, 3, 201, 20) == trials("(1,3,8,8)", "(2:3,3,201:210,20)")[0]


dims = st.builds(
    lambda low, more: Dim(low, None if more is None else low + more),
    st.integers(0, 300),
    st.none() | st.integers(0, 300),
)


@given(st.lists(st.tuples(dims, dims), max_size=4))
def test_every_trial_shape_is_accepted_and_none_comes_twice(pairs: list[tuple[Dim, Dim]]) -> None:
    own, rule = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    shapes = [shape for (shape,) in trial_shapes([ModelInput("x", "FP32", own)], [rule])]
    assert shapes
    assert len(shapes) == len(set(shapes))
    for shape in shapes:
        assert all(dim.accepts(n) for dim, n in zip(rule, shape, strict=True))


def test_a_key_is_compiled_with_its_rows_left_open_within_the_rule() -> None:
    inputs = (
        InputSpec("a", "FP32", parse_dims("(2:9,-1)"), 0),
        InputSpec("b", "FP32", parse_dims("(-1,5)"), None),
        InputSpec("c", "FP32", ()),
    )
    key = trial_key(inputs, [(3, 7), (3, 5), ()])
    assert ((-1, 7), (3, 5), ()) == key
    assert ((Dim(2, 9), 7), (3, 5), ()) == to_compile(inputs, key)
