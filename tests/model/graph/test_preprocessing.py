from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.datatypes import BF16
from deployments.dimensions import parse_dims
from deployments.inference import InputSpec
from deployments.model.graph.preprocessing import prepare
from deployments.settings.preprocessing import Preprocessing
from deployments.tensors import Array, Tensor, bf16_to_float32, float32_to_bf16
from tests.effort import examples
from tests.model import models
from tests.model.graph.prepared import (
    LUMINANCE,
    RANDOM,
    compilations,
    float32,
    floats,
    handed_on,
    pixels,
    prepared,
    read,
    stored,
    told,
)
from tests.model.loading import assert_same, direct, tensor

# Nothing asked ----------------------------------------------------------------------------------


def test_a_model_that_nothing_is_asked_of_is_left_alone() -> None:
    model = models.convolution()
    done = prepare(model, Preprocessing())
    assert model is done.model
    assert ((frozenset(),), ("BGR",)) == (done.held, done.colors)


def test_the_given_model_stays_as_it_is() -> None:
    model = models.convolution()
    done = prepare(model, read(layout="NHWC:NCHW", precision="uint8"))
    assert "[1,8,8,3]" == str(done.model.input(0).partial_shape)
    assert "[1,3,8,8]" == str(model.input(0).partial_shape)
    assert ov.Type.f32 == model.input(0).element_type


# All of it --------------------------------------------------------------------------------------


def test_pixels_as_cameras_give_them_are_what_the_model_was_trained_on() -> None:
    means, scales = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    version = prepared(
        models.convolution(),
        layout="NHWC:NCHW",
        precision="uint8:fp32",
        color_format="BGR:RGB",
        mean=means,
        scale="[58.395,57.12,57.375]",
    )
    expected_spec = InputSpec(
        *("x", "UINT8", parse_dims("(-1,-1,-1,3)"), 0, "NHWC"), colors="BGR", layout="NHWC"
    )
    assert (expected_spec,) == version.info.inputs
    bgr = pixels(2, 9, 11, 3)
    rgb = (bgr[..., ::-1] - float32(means)) / float32(scales)
    plain = tensor(rgb.transpose(0, 3, 1, 2))
    (expected,) = direct(models.convolution(), [plain])
    x = tensor(bgr, "UINT8")
    for compiled in compilations(version, x):
        (output,) = compiled.infer([x])
        assert expected.shape == output.shape
        np.testing.assert_allclose(floats(output), expected, rtol=1e-4, atol=1e-4)


NUMPY: dict[str, Any] = {
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int32": np.int32,
    "int64": np.int64,
    "fp16": np.float16,
    "fp32": np.float32,
    "fp64": np.float64,
}


@settings(max_examples=examples(30), deadline=None)
@given(
    target=st.sampled_from(["".join(order) for order in permutations("NCHW")]),
    source=st.sampled_from(["NCHW", "NHWC", "CHWN"]),
    precision=st.sampled_from(sorted(NUMPY)),
    colors=st.sampled_from(["RGB:BGR", "BGR:RGB", "RGB:RGB", None]),
    mean=st.sampled_from([None, 2.5, [1.0, 20.0, 3.5]]),
    scale=st.sampled_from([None, 0.5, [2.0, 0.25, 8.0]]),
    sizes=st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 5), st.integers(1, 5)),
)
def test_every_combination_computes_what_numpy_does(
    target: str,
    source: str,
    precision: str,
    colors: str | None,
    mean: float | list[float] | None,
    scale: float | list[float] | None,
    sizes: tuple[int, ...],
) -> None:
    asked = {
        "layout": f"{target}:{source}",
        "precision": precision,
        "color_format": colors,
        "mean": mean,
        "scale": scale,
    }
    by_name = dict(zip("NCHW", sizes, strict=True))
    own = {**by_name, "N": 1}
    model = models.add_one(tuple(own[name] for name in source))
    version = prepared(
        model,
        background=False,
        **{name: value for name, value in asked.items() if value is not None},
    )
    x = RANDOM.integers(0, 100, [by_name[name] for name in target]).astype(NUMPY[precision])
    steps: Array = np.moveaxis(x.astype(np.float32), target.index("C"), -1)
    if colors not in (None, "RGB:RGB"):
        steps = steps[..., ::-1]
    steps = (steps - float32(mean or 0)) / float32(scale or 1)
    last = np.moveaxis(steps, -1, target.index("C"))
    expected = last.transpose([target.index(name) for name in source])
    (spec,) = version.info.inputs
    given = Tensor("x", spec.datatype, x.shape, x)
    key, _ = version.info.key_and_rows([given], 32)
    (output,) = version.reshape(key)().infer([given])
    assert expected.shape == output.shape
    np.testing.assert_allclose(floats(output), expected + 1, rtol=1e-5, atol=1e-5)


# Order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({"mean": 2, "scale": 4}, [0.5, 4.5, 9.5], id="the mean is not scaled"),
        pytest.param({"mean": [4, 0, 0]}, [0, 20, 40], id="the mean's order is the channels'"),
        pytest.param(
            {"mean": [4, 0, 0], "color_format": "BGR:RGB"},
            [36, 20, 4],
            id="the mean is that of the model's colours",
        ),
        pytest.param(
            {"scale": [2, 1, 1], "color_format": "BGR:RGB"},
            [20, 20, 4],
            id="and so is the scale",
        ),
    ],
)
def test_steps_have_an_order(asked: dict[str, Any], expected: list[float]) -> None:
    version = prepared(models.add_one((1, 3, 1, 1)), layout="NHWC:NCHW", precision="uint8", **asked)
    for actual in handed_on(version, tensor([[[[4, 20, 40]]]], "UINT8")):
        assert expected == actual.ravel().tolist()


@pytest.mark.parametrize("colors", ["RGB", "BGR"])
def test_colours_become_grey(colors: str) -> None:
    version = prepared(
        models.add_one((1, 1, 6, 4)),
        layout="NHWC:NCHW",
        precision="uint8",
        color_format=f"{colors}:GRAY",
        mean=[3],
    )
    assert ["x UINT8 (-1,-1,-1,3) NHWC"] == told(version)[:1]
    x = pixels(2, 6, 4, 3)
    ordered = x if colors == "RGB" else x[..., ::-1]
    expected = ordered.astype(np.float32) @ LUMINANCE - 3
    for actual in handed_on(version, tensor(x, "UINT8")):
        np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_values_are_converted_to_f32_before_they_are_computed_with() -> None:
    version = prepared(models.add_one((1, 2)), precision="uint8", mean=200)
    for actual in handed_on(version, tensor([[10, 255]], "UINT8")):
        assert [[-190, 55]] == actual.tolist()


def test_bf16_is_a_precision_too() -> None:
    version = prepared(models.add_one(), precision={"x": "bf16", "y": "bf16"})
    bits = float32_to_bf16(np.array([[0.5, -2, 3, 1e9]], np.float32))
    x = Tensor("x", BF16, bits.shape, bits)
    for compiled in compilations(version, x):
        (output,) = compiled.infer([x])
        assert ("y", BF16) == (output.name, output.datatype)
        assert [1.5, -1, 4, bf16_to_float32(bits)[0, 3]] == floats(output)[0].tolist()


# Resize -----------------------------------------------------------------------------------------


def nearest(picture: Array, height: int, width: int) -> Array:
    """The pixel whose middle is nearest, of two the first."""
    rows, columns = (
        np.ceil((np.arange(new) + 0.5) * old / new - 1).clip(0).astype(int)
        for new, old in zip((height, width), picture.shape, strict=False)
    )
    return np.asarray(picture[rows][:, columns])


def resized(picture: Array, algorithm: str, height: int, width: int) -> Array:
    if algorithm == "nearest":
        return nearest(picture, height, width)
    how = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}[algorithm]
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))


@pytest.mark.parametrize("algorithm", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("size", [(5, 7), (8, 6), (16, 12), (19, 3), (1, 1)])
def test_pixels_of_any_size_get_the_size_of_the_model(
    algorithm: str, size: tuple[int, int]
) -> None:
    version = prepared(
        models.add_one((1, 3, 8, 6)),
        layout="NHWC:NCHW",
        precision="uint8",
        resize=algorithm,
        mean=[10, 20, 30],
    )
    assert ["x UINT8 (-1,1:,1:,3) NHWC", "y FP32 (-1,3,8,6) None"] == told(version)
    x = pixels(2, *size, 3)
    expected = [resized(float32(picture), algorithm, 8, 6) - float32([10, 20, 30]) for picture in x]
    for actual in handed_on(version, tensor(x, "UINT8")):
        np.testing.assert_allclose(actual.transpose(0, 2, 3, 1), expected, rtol=1e-4, atol=2e-3)


def test_nothing_has_no_pixels_to_resize() -> None:
    version = prepared(
        models.add_one((1, 3, 8, 6)), layout="NCHW", resize="linear", shape="(-1,3,-1,-1)"
    )
    assert ["x FP32 (-1,3,1:,1:) NCHW"] == told(version)[:1]


def test_only_the_inputs_that_are_named_are_resized() -> None:
    model = models.agreeing((1, 3, 8, 6))
    layouts = {"a": "NCHW", "b": "NCHW"}
    version = prepared(model, layout=layouts, resize={"a": "linear", "b": "none"})
    shapes = [told.partition("FP32 ")[2] for told in told(version)[:2]]
    assert ["(-1,-1,1:,1:) NCHW", "(-1,-1,8,6) NCHW"] == shapes


# Outputs ----------------------------------------------------------------------------------------


def test_outputs_get_the_layout_and_the_precision_of_the_clients() -> None:
    x = models.parameter([1, 4])
    doubled = ov.opset13.multiply(x, np.float32(2))
    model = models.model((doubled, "columns"), (ov.opset13.relu(x), "rows"), inputs=[x])
    version = prepared(model, layout={"columns": "CN:NC"}, precision={"columns": "int32"})
    outputs = ["columns INT32 (-1,-1) CN", "rows FP32 (-1,-1) None"]
    assert outputs == told(version)[1:]
    given = tensor([[1, 2, 3, 4], [5, 6, 7, 8.5]])
    columns = np.array([[2, 10], [4, 12], [6, 14], [8, 17]], np.int32)
    for compiled in compilations(version, given):
        assert_same([columns, given.data], compiled.infer([given]))
        assert_same([columns], compiled.infer([given], ["columns"]))


@pytest.mark.parametrize("asked", [{"precision": {"y": "fp16"}}, {"layout": {"y": "CN:NC"}}])
def test_all_names_of_a_converted_output_stay(tmp_path: Path, asked: dict[str, Any]) -> None:
    model = models.add_one()
    model.output(0).set_names({"y", "y:0"})
    for given_model in (model, stored(tmp_path, model, "NC")):
        done = prepare(given_model, read(**asked))
        assert {"y", "y:0"} == done.model.output(0).get_names()
