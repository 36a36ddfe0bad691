"""The runtime of every peer: OpenVINO with the throughput hint and a compilation for every shape.

The peers' own environments import this, so it needs openvino only.
"""

import os
import threading
from typing import Any

import openvino as ov


class Runtime:
    """A model that threads share. Each thread has its own infer requests, one for each shape."""

    def __init__(self, path: str) -> None:
        self._core = ov.Core()
        self._model = self._core.read_model(path)
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()
        self._own = threading.local()
        first = self._compilation(tuple(self._model.input(0).shape))
        self.threads = 2 * int(first.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def infer(self, data: Any) -> Any:
        """Runs an inference, and returns a copy of the first output. Blocks."""
        requests = self._own.__dict__.setdefault("requests", {})
        if data.shape not in requests:
            requests[data.shape] = self._compilation(data.shape).create_infer_request()
        return requests[data.shape].infer([data], share_inputs=True)[0]

    def _compilation(self, shape: tuple[int, ...]) -> Any:
        with self._lock:
            if shape not in self._compiled:
                model = self._model.clone()
                model.reshape(list(shape))
                hints = {"PERFORMANCE_HINT": "THROUGHPUT"}
                if asked := os.environ.get("ANYSHAPE_BENCH_PRECISION"):
                    hints["INFERENCE_PRECISION_HINT"] = asked
                self._compiled[shape] = self._core.compile_model(model, "CPU", hints)
            return self._compiled[shape]
