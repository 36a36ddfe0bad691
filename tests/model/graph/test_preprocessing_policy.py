"""Preprocessing with the shape policy, pictures and contradictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.model.policy.shapes import PolicyError
from tests.model import models
from tests.model.graph.prepared import (
    RANDOM,
    handed_on,
    prepared,
    read,
    stored,
    told,
)
from tests.model.loading import assert_same, loaded, tensor

# What the policy makes of it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"layout": "NHWC:NCHW"}, "(-1,-1,-1,3) NHWC"),
        ({"layout": "WCHN:NCHW"}, "(-1,3,-1,-1) WCHN"),
        ({"layout": "NCHW"}, "(-1,3,-1,-1) NCHW"),
        ({"layout": "NHWC:NCHW", "batch_size": 4}, "(4,-1,-1,3) NHWC"),
        ({"layout": "HWCN:NCHW", "batch_size": 4}, "(-1,-1,3,4) HWCN"),
        ({"layout": "NHWC:NCHW", "shape": "(1:4,20,-1,3)"}, "(1:4,20,-1,3) NHWC"),
        ({"layout": "NHWC:NCHW", "shape": "(-1,-1,-1,3)", "batch_size": 2}, "(2,-1,-1,3) NHWC"),
        ({"layout": "NHWC:NCHW", "color_format": "BGR:RGB"}, "(-1,-1,-1,3) NHWC"),
        (
            {"layout": "NHWC:NCHW", "color_format": "BGR:RGB", "shape": "(-1,9,9,-1)"},
            "(-1,9,9,3) NHWC",
        ),
        ({"layout": "NHWC:NCHW", "resize": "linear"}, "(-1,1:,1:,3) NHWC"),
        ({"layout": "NHWC:NCHW", "resize": "linear", "shape": "(1,20,9:30,3)"}, "(1,20,9:30,3)"),
    ],
)
def test_shapes_are_those_of_the_clients(asked: dict[str, Any], expected: str) -> None:
    assert told(prepared(models.convolution(), **asked))[0].startswith(f"x FP32 {expected}")


def test_channels_that_colours_decide_stay_closed_where_the_model_does_not_care() -> None:
    open_channels = models.add_one((1, 3, 4, 4))
    assert told(prepared(open_channels, layout="NCHW"))[0] == "x FP32 (-1,-1,-1,-1) NCHW"
    for asked in ({"color_format": "RGB:BGR"}, {"mean": [1, 2, 3]}, {"scale": [1, 2, 3]}):
        for shape, expected in (("auto", "(-1,3,-1,-1)"), ("(-1,-1,4,4)", "(-1,3,4,4)")):
            version = prepared(open_channels, layout="NCHW", shape=shape, **asked)
            assert told(version)[0] == f"x FP32 {expected} NCHW"


@pytest.mark.parametrize(
    ("shape", "layout", "axis"),
    [
        ((1, 4), "CN", 1),
        ((2, 3, 4), "HWN:NHW", 2),
        ((2, 3, 4), "CHW", None),
        ((2, 3, 4), "...N", 2),
        ((2, 3, 4), "?N...", 1),
        ((2, 3, 4), None, 0),
    ],
)
def test_the_batch_is_where_the_layout_has_it(
    shape: tuple[int, ...], layout: str | None, axis: int | None
) -> None:
    asked = {"layout": layout} if layout else {}
    version = prepared(models.add_one(shape), stacking="always", **asked)
    assert [axis] == [spec.batch_axis for spec in version.info.inputs]
    assert (axis == 0) == (version.stacking is not None)


def test_batches_along_another_axis_share_a_compilation() -> None:
    version = prepared(models.add_one((2, 3, 4)), layout="HWN:NHW")
    batches = [tensor(RANDOM.random((3, 4, rows))) for rows in (1, 5)]
    keys = [version.info.key_and_rows([batch], 32) for batch in batches]
    assert [(((3, 4, -1),), 1), (((3, 4, -1),), 5)] == keys
    compiled = version.reshape(keys[0][0])()
    for batch in batches:
        (output,) = compiled.infer([batch])
        expected = np.asarray(batch.data).transpose(2, 0, 1) + np.float32(1)
        assert_same([expected], [output])


def test_stacking_is_proven_through_the_preprocessing() -> None:
    version = prepared(
        models.convolution(),
        layout={"x": "NHWC:NCHW", "y": "NHWC:NCHW"},
        precision={"x": "uint8"},
        mean={"x": [1, 2, 3]},
        stacking="always",
    )
    assert version.stacking is not None


# Layouts in the model's file --------------------------------------------------------------------


def test_a_layout_of_the_file_is_inherited(tmp_path: Path) -> None:
    model = stored(tmp_path, models.add_one((2, 4)), "CN", "[C,N]")
    version = prepared(model, batch_size=7)
    assert ["x FP32 (-1,7) CN", "y FP32 (-1,7) CN"] == told(version)
    assert [1] == [spec.batch_axis for spec in prepared(model).info.inputs]


def test_a_layout_of_the_file_says_where_the_channels_are(tmp_path: Path) -> None:
    model = stored(tmp_path, models.add_one((1, 2, 2, 3)), "NHWC")
    version = prepared(model, mean=[1, 2, 3])
    for actual in handed_on(version, tensor(np.ones((1, 2, 2, 3)))):
        assert [[0, -1, -2]] * 4 == actual.reshape(4, 3).tolist()


def test_a_layout_that_is_set_goes_before_that_of_the_file(tmp_path: Path) -> None:
    model = stored(tmp_path, models.convolution(), "NCHW")
    assert told(prepared(model, layout="NHWC:NCHW"))[0] == "x FP32 (-1,-1,-1,3) NHWC"
    assert told(prepared(model, layout="CN??"))[0] == "x FP32 (-1,3,-1,-1) CN??"


# Pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"layout": "NHWC:NCHW"}, ("NHWC", "BGR")),
        ({"layout": "NCHW"}, ("NCHW", "BGR")),
        ({"layout": "N..."}, ("NCHW", "BGR")),
        ({"layout": "NCWH"}, (None, "BGR")),
        ({"layout": "HWCN:NCHW"}, (None, "BGR")),
        ({"layout": "NHWC:NCHW", "color_format": "RGB:BGR"}, ("NHWC", "RGB")),
        ({"layout": "NHWC:NCHW", "color_format": "RGB:RGB"}, ("NHWC", "RGB")),
        ({"layout": "NHWC:NCHW", "color_format": "BGR:RGB"}, ("NHWC", "BGR")),
        ({"layout": "NHWC:NCHW", "resize": "linear"}, ("NHWC", "BGR")),
        ({}, ("NCHW", "BGR")),
    ],
)
@pytest.mark.parametrize("precision", ["uint8", "int8", "fp16"])
def test_pictures_have_the_layout_and_the_colours_of_the_clients(
    asked: dict[str, Any], expected: tuple[str | None, str], precision: str
) -> None:
    (spec,) = prepared(models.convolution(), precision=precision, **asked).info.inputs
    assert expected == (spec.pictures, spec.colors)


# Contradictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            {"layout": "NCHW", "color_format": "RGB:BGR", "shape": "(1,4,8,8)"},
            "shape of input 'x' has 4 at dimension 1, its preprocessing takes 3 there",
        ),
        (
            {"layout": "NCHW", "resize": "linear", "shape": "(1,3,0,8)"},
            "shape of input 'x' has 0 at dimension 2, its preprocessing takes 1: there",
        ),
        (
            {"layout": "NCHW", "shape": "(1,3,8,8)", "batch_size": 2},
            "batch_size 2 contradicts shape (1,3,8,8) of input 'x'",
        ),
        (
            {"layout": "CHWD", "batch_size": 2},
            "batch_size is 2, but no input has a batch N: x CHWD",
        ),
        (
            {"layout": "NHWC:NCHW", "shape": "(1,8,3,8)"},
            "the model cannot be reshaped to x (1,8,3,8), which shape and batch_size ask for",
        ),
    ],
)
def test_shapes_that_contradict_the_preprocessing_are_refused(
    asked: dict[str, Any], reason: str
) -> None:
    loading = {name: asked.pop(name) for name in ("shape", "batch_size") if name in asked}
    with pytest.raises(PolicyError) as failure:
        loaded(models.convolution(), preprocessing=read(**asked), **loading)
    assert reason == str(failure.value)
