"""A minimal KServe v2 client with the binary extension, and direct calls of OpenVINO."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from examples.spots_picture import random_spots, spots_picture
from tests.e2e.server import NO_TLS

Array = NDArray[Any]
HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int64": "INT64"}
_DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64}


def binary_request(inputs: Mapping[str, Array], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a binary request for binary outputs."""
    entries = [
        {
            "name": name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    message = {"inputs": entries, "parameters": {"binary_data_output": True}, **more}
    head = json.dumps(message).encode()
    body = head + b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
    return body, {HEADER_LENGTH: str(len(head))}


def read_outputs(response: httpx.Response) -> dict[str, Array]:
    """The outputs of a response that are all binary."""
    assert response.status_code == 200, response.text
    length = int(response.headers[HEADER_LENGTH])
    outputs, position = {}, length
    for entry in json.loads(response.content[:length])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        raw = response.content[position : position + size]
        outputs[entry["name"]] = np.frombuffer(raw, _DTYPES[entry["datatype"]]).reshape(
            entry["shape"]
        )
        position += size
    assert position == len(response.content)
    return outputs


def infer(url: str, model: str, inputs: Mapping[str, Array], **more: Any) -> dict[str, Array]:
    body, headers = binary_request(inputs, **more)
    target = f"{url}/v2/models/{model}/infer"
    response = httpx.post(target, content=body, headers=headers, timeout=60, verify=NO_TLS)
    return read_outputs(response)


async def infer_async(
    client: httpx.AsyncClient, model: str, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    body, headers = binary_request(inputs)
    target = f"/v2/models/{model}/infer"
    return read_outputs(await client.post(target, content=body, headers=headers))


def picture_tensor(path: Path, size: tuple[int, int] | None) -> Array:
    """A picture as a tensor for the detectors, scaled to (width, height) or at its own size."""
    picture = cv2.imread(str(path))
    assert picture is not None
    if size is not None:
        picture = cv2.resize(picture, size)
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))


def direct(model: ov.Model, inputs: Array, precision: str | None = "f32") -> Array:
    """OpenVINO's own first output, compiled for this shape."""
    model = model.clone()
    model.reshape(list(inputs.shape))
    config = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = ov.Core().compile_model(model, "CPU", config)
    result: Array = np.array(compiled([inputs])[0])
    return result


def spots_found(url: str) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """The centres of the spots in a generated picture and of the detections, to 8 pixels."""
    spots = random_spots(420, 310, 9, seed=5)
    picture = spots_picture(420, 310, spots, seed=5)
    tensor = np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))
    table = infer(url, "spots", {"data": tensor})["detection_out"][0, 0]
    boxes = [row[3:] for row in table if row[0] == 0 and row[2] > 0.5]
    found = {
        (x, y)
        for x, y, _ in spots
        for box in boxes
        if abs((box[0] + box[2]) / 2 * 420 - x) < 4 and abs((box[1] + box[3]) / 2 * 310 - y) < 4
    }
    assert len(boxes) == len(spots)
    return {(x, y) for x, y, _ in spots}, found
