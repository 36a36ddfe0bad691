"""A small KServe server whose detector finds white rectangles."""

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNUSED_ROW = [-1.0, 0, 0, 0, 0, 0, 0]
METADATA = {
    "name": "finder",
    "versions": ["1", "3"],
    "platform": "OpenVINO",
    "inputs": [
        {"name": "scale", "datatype": "FP32", "shape": [1]},
        {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, -1, -1]},
    ],
    "outputs": [
        {"name": "counts", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "boxes", "datatype": "FP32", "shape": [1, 1, -1, 7]},
    ],
}


def detections(*rows: list[float]) -> NDArray[np.float32]:
    return np.array([[[*rows, UNUSED_ROW, [0.0, 1, 1, 0, 0, 1, 1]]]], np.float32)


def box_of_white(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The answer of a detector of white rectangles: one box for each picture with a rectangle."""
    rows = []
    for image_id, planes in enumerate(tensor):
        ys, xs = np.nonzero((planes > 250).all(axis=0))
        if len(ys):
            height, width = planes.shape[1:]
            ends = [xs.min() / width, ys.min() / height, xs.max() / width, ys.max() / height]
            rows.append([float(image_id), 1, 0.987, *ends])
    return detections(*rows)


class FakeServer(ThreadingHTTPServer):
    """Implements as much of KServe v2 as the client uses, and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []
        self.tensors: list[NDArray[np.float32]] = []
        self.errors: list[object] = []
        self.metadata: dict[str, Any] = METADATA
        self.metadata_failure: tuple[int, bytes] | None = None
        self.infer_failure: tuple[int, bytes] | None = None
        self.detect: Callable[[NDArray[np.float32]], NDArray[np.float32]] = box_of_white

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):  # a client may disconnect at any time
            self.errors.append(error)

    def shapes(self) -> list[tuple[int, ...]]:
        return [tensor.shape for tensor in self.tensors]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        failure = self.server.metadata_failure
        self.reply(*(failure or (200, json.dumps(self.server.metadata).encode())))

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header_bytes = int(self.headers["Inference-Header-Content-Length"])
        request, binary = json.loads(body[:header_bytes]), body[header_bytes:]
        assert len(request["inputs"]) == 1
        tensor = request["inputs"][0]
        assert tensor["name"] == "pixels"
        assert tensor["datatype"] == "FP32"
        assert tensor["parameters"] == {"binary_data_size": len(binary)}
        assert request["outputs"] == [{"name": "boxes", "parameters": {"binary_data": True}}]
        pixels = np.frombuffer(binary, np.float32).reshape(tensor["shape"])
        self.server.tensors.append(pixels)
        if self.server.infer_failure:
            self.reply(*self.server.infer_failure)
            return
        found = self.server.detect(pixels)
        output = {
            "name": "boxes",
            "datatype": "FP32",
            "shape": found.shape,
            "parameters": {"binary_data_size": found.nbytes},
        }
        head = json.dumps({"model_name": "finder", "outputs": [output]}).encode()
        self.reply(200, head + found.tobytes(), {"Inference-Header-Content-Length": len(head)})

    def reply(self, status: int, body: bytes, headers: dict[str, int] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
