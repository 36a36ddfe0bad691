"""The wire format of each arm: request bodies from tensors, and arrays from answers."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeAlias

import httpx
import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = NDArray[np.float32]
HEADER: Final = "Inference-Header-Content-Length"
BINARY: Final = {"Content-Type": "application/octet-stream"}
BOUNDARY: Final = "aBoundaryThatNoTensorHolds"


@dataclass(frozen=True)
class Body:
    content: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Wire:
    """Functions that make a request body of a tensor, and a flat array of an answer."""

    encode: Callable[[Tensor], Body]
    decode: Callable[[httpx.Response], Tensor]


def _kserve(entry: dict[str, Any], **parameters: Any) -> bytes:
    head = {"inputs": [{"name": "data", **entry}], "parameters": parameters}
    return json.dumps(head).encode()


def _binary_body(data: Tensor) -> Body:
    size = {"binary_data_size": data.nbytes}
    entry = {"datatype": "FP32", "shape": data.shape, "parameters": size}
    head = _kserve(entry, binary_data_output=True)
    return Body(head + data.tobytes(), {**BINARY, HEADER: str(len(head))})


def _binary_answer(reply: httpx.Response) -> Tensor:
    return np.frombuffer(reply.content[int(reply.headers[HEADER]) :], np.float32)


def _base64_body(data: Tensor) -> Body:
    parameters = {"content_type": "base64", "tensor_shape": data.shape}
    text = base64.b64encode(data.tobytes()).decode()
    entry = {"datatype": "BYTES", "shape": [1, 1], "parameters": parameters, "data": [text]}
    return Body(_kserve(entry), {"Content-Type": "application/json"})


def _json_answer(reply: httpx.Response) -> Tensor:
    return np.array(reply.json()["outputs"][0]["data"], np.float32)


def _form_body(data: Tensor) -> Body:
    file = BytesIO()
    np.save(file, data)
    head = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="data"; filename="data.npy"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    content = head.encode() + file.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Body(content, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def _plain_body(data: Tensor) -> Body:
    return Body(data.tobytes(), {**BINARY, "shape": json.dumps(data.shape)})


def _plain_answer(reply: httpx.Response) -> Tensor:
    return np.frombuffer(reply.content, np.float32)


KSERVE_BINARY: Final = Wire(_binary_body, _binary_answer)
KSERVE_BASE64: Final = Wire(_base64_body, _json_answer)
NPY_FORM: Final = Wire(_form_body, _plain_answer)
PLAIN: Final = Wire(_plain_body, _plain_answer)
