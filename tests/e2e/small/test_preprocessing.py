"""Preprocessing in the graph, asked over the wire: answers are those of the model as it is, called
directly with what numpy makes of the same pixels.

Means and scales are powers of two and weights whole numbers: exact in any order of computation.
"""

import json
from typing import Any

import cv2
import httpx
import numpy as np
import openvino as ov
import pytest
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

from deployments.tensors import Array, Tensor
from tests.e2e.client import HEADER_LENGTH
from tests.e2e.server import Server
from tests.e2e.small.preprocessed import MEAN, MODELS, SCALE
from tests.e2e.wire import FORMS, Refused, asked, outputs_of
from tests.model.loading import assert_same, direct, tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RANDOM = np.random.default_rng(7)


def pixels(*shape: int) -> Array:
    return RANDOM.integers(0, 256, shape, np.uint8)


def nchw(picture: Array) -> Array:
    return np.ascontiguousarray(picture.transpose(0, 3, 1, 2).astype(np.float32))


def check(server: Server, model: str, given: Tensor, expected: list[Any]) -> None:
    for form in FORMS:
        assert_same(expected, asked(server, model, [given], form))


def normalized(bgr: Array) -> Tensor:
    rgb = nchw(bgr[..., ::-1])
    column = (slice(None), None, None)
    return tensor((rgb - np.array(MEAN)[column]) / np.array(SCALE)[column])


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (3, 8, 8, 3), (2, 9, 5, 3)])
def test_pixels_are_converted_as_the_settings_say(server: Server, shape: tuple[int, ...]) -> None:
    bgr = pixels(*shape)
    expected = direct(MODELS["pixels"], [normalized(bgr)])
    check(server, "pixels", tensor(bgr, "UINT8"), expected)


def test_a_png_arrives_as_its_pixels(server: Server) -> None:
    bgr = pixels(1, 7, 6, 3)
    encoded = cv2.imencode(".png", bgr[0])[1].tobytes()
    message = {
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1]}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(message).encode()
    answer = httpx.post(
        f"{server.url}/v2/models/pixels/infer",
        content=head + encoded,
        headers={HEADER_LENGTH: str(len(head))},
        timeout=50,
    )
    assert_same(direct(MODELS["pixels"], [normalized(bgr)]), outputs_of(answer))


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (2, 5, 9, 3)])
def test_outputs_are_converted_too(server: Server, shape: tuple[int, ...]) -> None:
    picture = pixels(*shape).astype(np.float32)
    (plain,) = direct(MODELS["both-ends"], [tensor(nchw(picture))])
    expected = np.ascontiguousarray(plain.transpose(0, 2, 3, 1).astype(np.float64))
    check(server, "both-ends", tensor(picture), [expected])


def test_rows_are_where_the_layout_has_its_n(server: Server) -> None:
    columns = RANDOM.integers(-9, 9, (4, 3)).astype(np.float32)
    check(server, "columns", tensor(columns), direct(MODELS["columns"], [tensor(columns)]))
    with pytest.raises(Refused, match=r"dimension 1 is 2, the model takes \[-1,3\]|\[4,3\]"):
        asked(server, "columns", [tensor(columns[:, :2])], "json")


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (1, 16, 24, 3), (2, 5, 3, 3)])
def test_pictures_of_any_size_are_resized_in_the_graph(
    server: Server, shape: tuple[int, ...]
) -> None:
    picture = pixels(*shape)
    steps = PrePostProcessor(MODELS["resized"].clone())
    given = steps.input(0).tensor()
    given.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    given.set_spatial_dynamic_shape()
    steps.input(0).preprocess().convert_element_type(ov.Type.f32).resize(
        ResizeAlgorithm.RESIZE_LINEAR
    )
    steps.input(0).model().set_layout(ov.Layout("NCHW"))
    expected = direct(steps.build(), [tensor(picture, "UINT8")])
    for form in FORMS:
        (answer,) = asked(server, "resized", [tensor(picture, "UINT8")], form)
        np.testing.assert_allclose(expected[0], np.asarray(answer.data), rtol=1e-5)  # it adds up


def test_clients_are_told_what_to_send(server: Server) -> None:
    metadata = httpx.get(f"{server.url}/v2/models/pixels").json()
    (described,) = metadata["inputs"]
    assert ("UINT8", [-1, -1, -1, 3]) == (described["datatype"], described["shape"])
    assert {"layout": "NHWC"} == described["parameters"]
    resized = httpx.get(f"{server.url}/v2/models/resized").json()["inputs"][0]
    assert [-1, -1, -1, 3] == resized["shape"]


def test_settings_that_contradict_the_model_are_its_state(server: Server) -> None:
    def change(application: dict[str, Any]) -> None:
        application["deployments"] = [
            {"name": "pixels", "user_config": {"color_format": {"z": "BGR:RGB"}}}
        ]

    server.deploy(change)
    reason = ""
    while not reason:
        index = httpx.post(f"{server.url}/v2/repository/index", timeout=10).json()
        reason = next(entry["reason"] for entry in index if entry["name"] == "pixels")
    assert "color_format names 'z', the model's inputs are x" in reason
    bgr = pixels(1, 8, 8, 3)
    expected = direct(MODELS["pixels"], [normalized(bgr)])
    check(server, "pixels", tensor(bgr, "UINT8"), expected)
