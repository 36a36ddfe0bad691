"""The face detector over HTTP gives what OpenVINO gives, at any size, alone and in a crowd."""

import asyncio
import json

import httpx
import numpy as np
import openvino as ov
import pytest

from tests.e2e.client import Array, direct, infer, infer_async, picture_tensor
from tests.e2e.server import Server
from tests.shared import FACE_MODEL, FACES_AT_300, PEOPLE, needs_shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_shared]

SIZES = [(300, 300), (500, 500), (600, 400), None]
PICTURES = ["people2.jpeg", "people3.jpeg", "people4.jpeg"]


@pytest.fixture(scope="module")
def model() -> ov.Model:
    return ov.Core().read_model(FACE_MODEL)


def faces(detections: Array) -> Array:
    """The confident detections as rows of confidence and box."""
    table = detections[0, 0]
    return np.array([row[2:] for row in table if row[0] != -1 and row[2] > 0.5])


@pytest.mark.parametrize(
    ("served", "tolerance"), [("face-detection", "f32"), ("face-default", "bf16")]
)
@pytest.mark.parametrize("picture", PICTURES)
def test_published_detections_are_found(
    server: Server, served: str, tolerance: str, picture: str
) -> None:
    published = json.loads(FACES_AT_300.read_text())
    expected = np.array([[f["confidence"], *f["box"]] for f in published["images"][picture]])
    outputs = infer(server.url, served, {"data": picture_tensor(PEOPLE / picture, (300, 300))})

    actual = faces(outputs["detection_out"])

    bound = published["tolerance"][tolerance]
    box, confidence = (bound, bound) if tolerance == "f32" else (bound["box"], bound["confidence"])
    assert expected.shape == actual.shape
    expected, actual = (rows[np.argsort(rows[:, 1])] for rows in (expected, actual))
    np.testing.assert_allclose(actual[:, 1:], expected[:, 1:], rtol=0, atol=box)
    np.testing.assert_allclose(actual[:, 0], expected[:, 0], rtol=0, atol=confidence)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("picture", PICTURES)
def test_alone_a_picture_gives_the_bytes_of_a_direct_call(
    server: Server, model: ov.Model, picture: str, size: tuple[int, int] | None
) -> None:
    tensor = picture_tensor(PEOPLE / picture, size)

    actual = infer(server.url, "face-detection", {"data": tensor})["detection_out"]

    assert direct(model, tensor).tobytes() == actual.tobytes()


async def test_in_a_crowd_every_picture_gives_the_bytes_of_a_direct_call(
    server: Server, model: ov.Model
) -> None:
    tensors = [picture_tensor(PEOPLE / name, size) for name in PICTURES for size in SIZES[:3]]
    expected = [direct(model, tensor).tobytes() for tensor in tensors]
    before = server.statistics("face-detection")

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        replies = await asyncio.gather(
            *(infer_async(client, "face-detection", {"data": t}) for t in tensors * 8)
        )

    assert expected * 8 == [reply["detection_out"].tobytes() for reply in replies]
    after = server.statistics("face-detection")
    batches = after["batches"] - before["batches"]
    assert batches < after["requests"] - before["requests"], "nothing ran in a batch"


def test_a_batch_of_pictures_equals_a_direct_call_on_that_batch(
    server: Server, model: ov.Model
) -> None:
    tensor = np.concatenate([picture_tensor(PEOPLE / name, (600, 400)) for name in PICTURES])

    actual = infer(server.url, "face-detection", {"data": tensor})["detection_out"]

    assert (1, 1, 600, 7) == actual.shape
    assert direct(model, tensor).tobytes() == actual.tobytes()


@pytest.mark.parametrize("picture", PICTURES)
def test_a_jpeg_is_found_at_its_own_size(server: Server, model: ov.Model, picture: str) -> None:
    raw = (PEOPLE / picture).read_bytes()
    head = json.dumps(
        {
            "inputs": [{"name": "data", "shape": [1], "datatype": "BYTES"}],
            "outputs": [{"name": "detection_out", "parameters": {"binary_data": True}}],
        }
    ).encode()
    response = httpx.post(
        f"{server.url}/v2/models/face-detection/infer",
        content=head + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=60,
    )

    assert response.status_code == 200, response.text
    length = int(response.headers["Inference-Header-Content-Length"])
    expected = direct(model, picture_tensor(PEOPLE / picture, None))
    assert expected.tobytes() == response.content[length:]
