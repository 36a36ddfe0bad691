"""Triton's Python backend: OpenVINO with one thread in each instance, in Triton's own environment.

The parameter `compilations` of config.pbtxt is `static` or `dynamic`. `static` compiles the model
for each shape and keeps all compilations. `dynamic` has one compilation for all shapes.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import openvino as ov
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._core = ov.Core()
        self._model = self._core.read_model(parameters["path"])
        self._requests: dict[tuple[int, ...], Any] = {}
        self._request: Callable[[tuple[int, ...]], Any] = self._of_shape
        if parameters["compilations"] == "dynamic":
            request = self._compiled(_dynamic(self._model.input(0).partial_shape))
            self._request = lambda shape: request

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        data = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
        answer = self._request(data.shape).infer([data], share_inputs=True)[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, answer)])

    def _of_shape(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            self._requests[shape] = self._compiled(list(shape))
        return self._requests[shape]

    def _compiled(self, shape: list[int]) -> Any:
        model = self._model.clone()
        model.reshape(shape)
        return self._core.compile_model(model, "CPU", _properties()).create_infer_request()


def _dynamic(shape: ov.PartialShape) -> list[int]:
    """All dimensions, open except for a picture's channels."""
    lengths = [-1] * len(shape)
    if len(shape) == 4:
        lengths[1] = shape[1].get_length()
    return lengths


def _properties() -> dict[str, Any]:
    """Without pinning, which would put the only threads of two processes on the same core."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    properties |= {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    if asked := os.environ.get("ANYSHAPE_BENCH_PRECISION"):
        properties["INFERENCE_PRECISION_HINT"] = asked
    return properties
