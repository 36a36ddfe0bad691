from typing import Any

import openvino as ov
import pytest

from deployments.model.graph.ports import resolve_ports
from deployments.model.policy.shapes import PolicyError
from deployments.settings.model import ModelSettings
from tests.model import models


def refusal(model: ov.Model, **given: Any) -> str:
    values = {"name": "m", "source": "builtin:spots", **given}
    with pytest.raises(PolicyError) as failure:
        resolve_ports(model, ModelSettings.model_validate(values).preprocessing)
    return str(failure.value)


def without_rank() -> ov.Model:
    x = ov.opset13.parameter(ov.PartialShape.dynamic(), ov.Type.f32, name="x")
    x.output(0).set_names({"x"})
    return models.model((ov.opset13.relu(x), "y"), inputs=[x])


def same_name() -> ov.Model:
    x = models.parameter([1, 4])
    return models.model((x, "x"), inputs=[x])


SETTINGS: list[tuple[str, Any]] = [
    ("layout", "NC"),
    ("precision", "fp16"),
    ("color_format", "RGB:BGR"),
    ("resize", "linear"),
    ("mean", 1),
    ("scale", 2),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_a_name_that_the_model_does_not_have_is_refused(name: str, value: Any) -> None:
    outputs = ", its outputs y" if name in ("layout", "precision") else ""
    expected = f"{name} names 'z', the model's inputs are a, b{outputs}"
    assert expected == refusal(models.agreeing(), **{name: {"z": value}})


@pytest.mark.parametrize(("name", "value"), SETTINGS[2:])
def test_outputs_are_not_computed_with(name: str, value: Any) -> None:
    expected = f"{name} names 'y', the model's inputs are a, b"
    assert expected == refusal(models.agreeing(), **{name: {"y": value}})


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_one_value_is_for_a_model_of_one_input(name: str, value: Any) -> None:
    expected = f"{name} is one value for a model of 2 inputs, write one for each: a, b"
    assert expected == refusal(models.agreeing(), **{name: value})


def test_no_resize_is_for_any_number_of_inputs() -> None:
    settings = ModelSettings(name="m", source="builtin:spots", resize="none").preprocessing
    inputs, _ = resolve_ports(models.agreeing(), settings)
    assert [False, False] == [port.changes for port in inputs]


@pytest.mark.parametrize("name", ["layout", "precision"])
def test_a_name_of_an_input_and_an_output_is_refused(name: str) -> None:
    expected = f"{name} names 'x', which is an input and an output"
    assert expected == refusal(same_name(), **{name: {"x": dict(SETTINGS)[name]}})


def test_one_value_is_not_for_an_output_of_the_same_name() -> None:
    settings = ModelSettings(name="m", source="builtin:spots", precision="fp16").preprocessing
    inputs, outputs = resolve_ports(same_name(), settings)
    assert ([True], [False]) == ([i.changes for i in inputs], [o.changes for o in outputs])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"layout": "NC"},
            "layout NC is not that of input 'x', which has 4 dimensions: (1,3,8,8)",
        ),
        (
            {"layout": "HWN:NHW"},
            "layout NHW is not that of input 'x', which has 4 dimensions: (1,3,8,8)",
        ),
        (
            {"layout": {"y": "CN:NC"}},
            "layout NC is not that of output 'y', which has 4 dimensions: (1,2,8,8)",
        ),
        (
            {"precision": "uint8:fp16"},
            "precision says input 'x' is FP16 in the model, it is FP32",
        ),
        (
            {"precision": {"y": "uint8:fp64"}},
            "precision says output 'y' is FP64 in the model, it is FP32",
        ),
        (
            {"mean": [1, 2, 3]},
            "mean needs to know the dimension C of input 'x', it has no layout",
        ),
        (
            {"scale": [1, 2, 3], "layout": "N..."},
            "scale needs to know the dimension C of input 'x', its layout N... has none",
        ),
        (
            {"color_format": "RGB:BGR"},
            "color_format needs to know the dimension C of input 'x', it has no layout",
        ),
        (
            {"resize": "linear"},
            "resize needs to know the dimension H of input 'x', it has no layout",
        ),
        (
            {"resize": "linear", "layout": "NCH?"},
            "resize needs to know the dimension W of input 'x', its layout NCH? has none",
        ),
        (
            {"mean": [1, 2], "layout": "NCHW"},
            "mean has 2 numbers, input 'x' has 3 channels",
        ),
        ({"scale": [1], "layout": "NCHW"}, "scale has 1 numbers, input 'x' has 3 channels"),
        (
            {"color_format": "RGB:GRAY", "layout": "NCHW"},
            "color_format says input 'x' is GRAY in the model, of 1 channel, it has 3",
        ),
        (
            {"color_format": "RGB:BGR", "layout": "NHWC"},
            "color_format says input 'x' is BGR in the model, of 3 channels, it has 8",
        ),
    ],
)
def test_what_contradicts_the_model_is_refused(given: dict[str, Any], reason: str) -> None:
    assert reason == refusal(models.convolution(), **given)


def test_means_and_scales_of_open_channels_have_to_agree() -> None:
    model = models.add_one((1, -1, 8, 8))
    expected = "scale has 2 numbers, input 'x' has 3 channels"
    assert expected == refusal(model, layout="NCHW", mean=[1, 2, 3], scale=[1, 2])
    expected = "mean has 2 numbers, input 'x' has 1 channels"
    assert expected == refusal(model, layout="NCHW", mean=[1, 2], color_format="RGB:GRAY")


def test_a_model_that_takes_any_size_has_none_to_resize_to() -> None:
    reason = refusal(models.convolution((1, 3, -1, 8)), layout="NCHW", resize="linear")
    expected = "resize needs a height and width that the model fixes, input 'x' has -1 x 8"
    assert expected == reason


@pytest.mark.parametrize("given", [{"precision": "uint8"}, {"mean": 1}, {"layout": "CN:NC"}])
def test_strings_are_not_preprocessed(given: dict[str, Any]) -> None:
    model = models.add_one((1, 4), ov.Type.string)
    assert "input 'x' does not hold numbers, it cannot be preprocessed" == refusal(model, **given)


def test_a_layout_that_moves_nothing_is_for_strings_too() -> None:
    values = {"name": "m", "source": "builtin:spots", "layout": "CN"}
    model = models.add_one((1, 4), ov.Type.string)
    (port,), _ = resolve_ports(model, ModelSettings.model_validate(values).preprocessing)
    assert port.layout is not None
    assert "CN" == str(port.layout.target)


def test_a_model_without_a_rank_is_not_preprocessed() -> None:
    expected = "input 'x' has no fixed number of dimensions to preprocess"
    assert expected == refusal(without_rank(), precision="uint8")
