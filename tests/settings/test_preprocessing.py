import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.layouts import Layout
from deployments.settings.preprocessing import (
    ColorFormat,
    Numbers,
    Precision,
    Preprocessing,
    parse_color_format,
    parse_mean,
    parse_precision,
    parse_scale,
    read,
)

MEANS = (123.675, 116.28, 103.53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def reason_of(parse: Callable[[Any], object], value: Any) -> str:
    with pytest.raises(ValueError) as failure:  # noqa: PT011  # its text is what is tested
        parse(value)
    return str(failure.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uint8", Precision("UINT8")),
        ("UINT8:fp32", Precision("UINT8", "FP32")),
        (" bf16 : fp16 ", Precision("BF16", "FP16")),
    ],
)
def test_a_precision_is_what_clients_send_and_maybe_what_the_model_has(
    text: str, expected: Precision
) -> None:
    assert expected == parse_precision(text)


@pytest.mark.parametrize("text", ["", "float", "uint8:", "uint8:f32", "int4", "string", "bool"])
def test_other_precisions_are_refused_with_those_that_are_known(text: str) -> None:
    assert reason_of(parse_precision, text) == (
        f"{text!r} is not a precision, known: uint8, uint16, uint32, uint64, int8, int16, int32, "
        "int64, fp16, bf16, fp32, fp64"
    )


def test_a_precision_has_two_sides_at_most() -> None:
    expected = "'int8:int8:int8' has more than a target and a source precision"
    assert expected == reason_of(parse_precision, "int8:int8:int8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BGR:RGB", ColorFormat("BGR", "RGB")),
        ("rgb : gray", ColorFormat("RGB", "GRAY")),
        ("RGB:RGB", ColorFormat("RGB", "RGB")),
        ("GRAY:GRAY", ColorFormat("GRAY", "GRAY")),
    ],
)
def test_colours_are_what_clients_send_and_what_the_model_has(
    text: str, expected: ColorFormat
) -> None:
    assert expected == parse_color_format(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("RGB", "'RGB' must be target and source, such as 'BGR:RGB'"),
        ("RGB:", "'RGB:' has the colour format '', known: RGB, BGR, GRAY"),
        ("NV12:RGB", "'NV12:RGB' has the colour format 'NV12', known: RGB, BGR, GRAY"),
        ("RGB:BGR:RGB", "'RGB:BGR:RGB' has the colour format 'BGR:RGB', known: RGB, BGR, GRAY"),
        ("gray:rgb", "'gray:rgb': GRAY cannot be converted to RGB"),
    ],
)
def test_other_colours_are_refused(text: str, reason: str) -> None:
    assert reason == reason_of(parse_color_format, text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5.0),
        (-0.5, -0.5),
        ("127.5", 127.5),
        ([1, 2.5], (1.0, 2.5)),
        ("[123.675,116.28,103.53]", MEANS),
        ("(123.675, 116.28, 103.53)", MEANS),
        (" [ 7 ] ", (7.0,)),
        (0, 0.0),
    ],
)
def test_means_are_numbers_or_lists_of_them(value: Any, expected: Numbers) -> None:
    assert expected == parse_mean(value)


@given(st.lists(FLOATS, min_size=1, max_size=5))
def test_numbers_are_the_same_listed_and_as_text(numbers: list[float]) -> None:
    assert tuple(numbers) == parse_mean(numbers) == parse_mean(str(numbers))
    assert numbers[0] == parse_mean(numbers[0]) == parse_mean(str(numbers[0]))


@pytest.mark.parametrize("parse", [parse_mean, parse_scale])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "lists no number"),
        ("[]", "lists no number"),
        ("", "'' has '', which is not a number that fits into f32"),
        ("[1,,2]", "'[1,,2]' has '', which is not a number that fits into f32"),
        ("[1,2)", "'[1,2)' has '[1,2)', which is not a number that fits into f32"),
        ("1,2", "'1,2' has '1,2', which is not a number that fits into f32"),
        ("nan", "'nan' has 'nan', which is not a number that fits into f32"),
        (float("inf"), "inf is not a number that fits into f32"),
        ([1.0, float("nan")], "nan is not a number that fits into f32"),
        (1e39, "1e+39 is not a number that fits into f32"),
    ],
)
def test_what_the_graph_cannot_compute_with_is_refused(
    parse: Callable[[Any], object], value: Any, reason: str
) -> None:
    assert reason == reason_of(parse, value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "0 has the scale 0, the graph divides by the scale"),
        ([1, 0.0], "[1, 0.0] has the scale 0, the graph divides by the scale"),
        ("(0,1)", "'(0,1)' has the scale 0, the graph divides by the scale"),
        (1e-50, "1e-50 has the scale 1e-50, the graph divides by the scale"),
    ],
)
def test_a_scale_that_is_0_in_f32_is_refused(value: Any, reason: str) -> None:
    assert reason == reason_of(parse_scale, value)


def test_settings_are_read_by_name() -> None:
    settings = read(
        {"a": "CN:NC"}, "uint8", {"a": "BGR:RGB"}, {"a": "cubic"}, {"a": [1, 2]}, {"a": "2"}
    )
    assert isinstance(settings.layout, dict)
    assert ["a"] == list(settings.layout)
    assert Precision("UINT8") == settings.precision
    assert {"a": ColorFormat("BGR", "RGB")} == settings.color_format
    assert {"a": "cubic"} == settings.resize
    assert {"a": (1.0, 2.0)} == settings.mean
    assert {"a": 2.0} == settings.scale


def test_the_error_of_an_invalid_setting_names_the_input_or_output() -> None:
    with pytest.raises(ValueError, match=re.escape("'b': 'NN' has N twice in one layout")):
        read({"a": "N", "b": "NN"}, {}, {}, "none", {}, {})


def layouts(setting: Any) -> Preprocessing:
    return read(setting, {}, {}, "none", {}, {})


@pytest.mark.parametrize(
    ("setting", "name", "axis"),
    [
        ({}, None, 0),
        ("HW:WH", None, None),
        ("CN:NC", None, 1),
        ("CN", "any", 1),
        ({"a": "CN"}, "a", 1),
        ({"a": "CN"}, "b", 0),
        ({"a": "CN"}, None, None),
    ],
)
def test_settings_say_where_the_batch_is_as_far_as_they_know(
    setting: Any, name: str | None, axis: int | None
) -> None:
    assert axis == layouts(setting).batch_axis(name, 2)


def test_a_layout_is_that_of_the_clients() -> None:
    rule = layouts("CN:NC").layout_of(None)
    assert rule is not None
    assert Layout(("C", "N")) == rule.target
    assert layouts({"a": "CN:NC"}).layout_of("b") is None
