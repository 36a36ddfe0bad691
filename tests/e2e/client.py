"""A minimal KServe v2 client with the binary extension, and the direct OpenVINO call beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import openvino as ov
from numpy.typing import NDArray

Array = NDArray[Any]
HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int64": "INT64"}
_DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64}


def binary_request(inputs: Mapping[str, Array], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a binary request that wants binary outputs."""
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
    """The outputs of a response whose outputs are all binary."""
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
    return read_outputs(httpx.post(target, content=body, headers=headers, timeout=60))


async def infer_async(
    client: httpx.AsyncClient, model: str, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    body, headers = binary_request(inputs)
    target = f"/v2/models/{model}/infer"
    return read_outputs(await client.post(target, content=body, headers=headers))


def picture_tensor(path: Path, size: tuple[int, int] | None) -> Array:
    """A picture as the detectors take it, scaled to (width, height) or at its own size."""
    picture = cv2.imread(str(path))
    assert picture is not None
    if size is not None:
        picture = cv2.resize(picture, size)
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))


def direct(model: ov.Model, inputs: Array, precision: str | None = "f32") -> Array:
    """What OpenVINO itself gives for the first output, at just this shape."""
    model = model.clone()
    model.reshape(list(inputs.shape))
    config = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = ov.Core().compile_model(model, "CPU", config)
    result: Array = np.array(compiled([inputs])[0])
    return result
