"""TensorFlow Serving's REST API on the really started server."""

import base64
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.e2e.client import infer
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROW = [float(n) for n in range(10)]
ANSWER = [n + 1 for n in ROW]


def post(server: Server, path: str, content: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/models/{path}", json=content, timeout=60)


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/models/{path}", timeout=30)


@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/0", "/labels/stable"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"instances": [ROW, ROW]}, {"predictions": [ANSWER, ANSWER]}),
        ({"instances": [{"data": ROW}]}, {"predictions": [ANSWER]}),
        ({"inputs": [ROW]}, {"outputs": [ANSWER]}),
        ({"inputs": {"data": [ROW, ROW, ROW]}}, {"outputs": [ANSWER] * 3}),
    ],
)
def test_rows_and_columns(server: Server, version: str, content: Any, expected: Any) -> None:
    response = post(server, f"add-one{version}:predict", content)
    assert 200 == response.status_code, response.text
    assert expected == response.json()


def test_a_picture_at_its_own_size(server: Server) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (72, 104, 3), np.uint8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    encoded = {"b64": base64.b64encode(png).decode()}
    pixels = picture.astype(np.float32).transpose(2, 0, 1)[np.newaxis]
    expected = infer(server.url, "spots", {"data": np.ascontiguousarray(pixels)})
    for content, key in (
        ({"instances": [encoded]}, "predictions"),
        ({"instances": [{"data": encoded}]}, "predictions"),
        ({"inputs": {"data": [encoded]}}, "outputs"),
    ):
        response = post(server, "spots:predict", content)
        assert 200 == response.status_code, response.text
        answer = np.array(response.json()[key], np.float32)
        np.testing.assert_array_equal(expected["detection_out"], answer)


@pytest.mark.parametrize("version", ["", "/versions/1", "/labels/stable"])
def test_status_and_metadata(server: Server, version: str) -> None:
    (status,) = get(server, f"add-one{version}").json()["model_version_status"]
    assert ("1", "AVAILABLE") == (status["version"], status["state"])
    metadata = get(server, f"add-one{version}/metadata").json()
    assert {"name": "add-one", "signatureName": "", "version": "1"} == metadata["modelSpec"]
    definition = metadata["metadata"]["signature_def"]["signatureDef"]["serving_default"]
    assert ["-1", "10"] == [d["size"] for d in definition["inputs"]["data"]["tensorShape"]["dim"]]


def test_a_model_that_could_not_be_loaded_says_why(server: Server) -> None:
    (status,) = get(server, "missing").json()["model_version_status"]
    assert ("0", "END", "UNAVAILABLE") == (
        status["version"],
        status["state"],
        status["status"]["error_code"],
    )
    assert "127.0.0.1" in status["status"]["error_message"]
    assert 503 == get(server, "missing/metadata").status_code


@pytest.mark.parametrize(
    ("path", "content", "code", "words"),
    [
        ("unheard-of:predict", {"inputs": [ROW]}, 404, "'unheard-of' is not served here"),
        ("add-one/versions/9:predict", {"inputs": [ROW]}, 404, "has no version '9'"),
        ("add-one/labels/x:predict", {"inputs": [ROW]}, 404, "no version label 'x', known: stable"),
        ("add-one:predict", {"inputs": [ROW[1:]]}, 400, "dimension 1 is 9"),
        ("add-one:predict", {"inputs": [ROW, ROW[1:]]}, 400, "not of one length"),
        ("add-one:predict", {}, 400, "either 'instances' (rows) or 'inputs' (columns)"),
        ("add-one:predict", {"inputs": ["abc"]}, 400, "has datatype BYTES, the model takes FP32"),
        ("add-one:explain", {}, 405, "does not take POST"),
    ],
)
def test_what_is_wrong_is_told(
    server: Server, path: str, content: Any, code: int, words: str
) -> None:
    response = post(server, path, content)
    assert (code, True) == (response.status_code, words in response.json()["error"]), response.text


def test_the_model_repository_index_of_triton(server: Server) -> None:
    url = f"{server.url}/v2/repository/index"
    index = {model["name"]: model for model in httpx.post(url, timeout=30).json()}
    assert ("1", "READY", "") == (
        index["add-one"]["version"],
        index["add-one"]["state"],
        index["add-one"]["reason"],
    )
    assert "UNAVAILABLE" == index["missing"]["state"]
    ready = {model["name"] for model in httpx.post(url, json={"ready": True}, timeout=30).json()}
    assert {"missing"} == index.keys() - ready
    assert 400 == httpx.post(url, json={"ready": 1}, timeout=30).status_code
