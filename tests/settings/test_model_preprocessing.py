"""Preprocessing in a model's settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.settings.preprocessing import ColorFormat, Precision, Preprocessing
from tests.settings.model_settings import model, refusal


def test_preprocessing_is_read() -> None:
    settings = model(
        layout={"x": "NHWC:NCHW", "y": "CN:NC"},
        precision="uint8:fp32",
        color_format={"x": "BGR:RGB"},
        resize="linear",
        mean="[123.675,116.28,103.53]",
        scale={"x": [58.395, 57.12, 57.375], "z": 2},
    ).preprocessing
    assert Precision("UINT8", "FP32") == settings.precision
    assert {"x": ColorFormat("BGR", "RGB")} == settings.color_format
    assert "linear" == settings.resize
    assert (123.675, 116.28, 103.53) == settings.mean
    assert {"x": (58.395, 57.12, 57.375), "z": 2.0} == settings.scale
    for name, expected in (("x", "NHWC"), ("y", "CN")):
        rule = settings.layout_of(name)
        assert rule is not None
        assert expected == str(rule.target)


def test_without_settings_nothing_is_preprocessed() -> None:
    assert Preprocessing() == model().preprocessing


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "NHWC:NCH"}, "'NHWC:NCH' has NHWC before the colon and NCH after it"),
        ({"layout": {"x": "NN"}}, "'x': 'NN' has N twice in one layout"),
        ({"precision": "float"}, "'float' is not a precision, known: uint8, "),
        ({"precision": {"x": "u8"}}, "'x': 'u8' is not a precision, known: uint8, "),
        ({"color_format": "RGB"}, "'RGB' must be target and source"),
        ({"mean": "1;2"}, "'1;2' has '1;2', which is not a number"),
        ({"mean": []}, "lists no number"),
        ({"scale": 0}, "0.0 has the scale 0, the graph divides by the scale"),
        ({"scale": {"x": [1, 0]}}, "'x': [1.0, 0.0] has the scale 0"),
    ],
)
def test_preprocessing_that_cannot_be_read_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes).startswith(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": 4},
        {"layout": {"x": 4}},
        {"precision": ["uint8"]},
        {"resize": "bilinear"},
        {"resize": {"x": "bilinear"}},
        {"mean": True},
        {"mean": [True]},
        {"mean": None},
        {"scale": {"x": None}},
    ],
)
def test_preprocessing_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)
