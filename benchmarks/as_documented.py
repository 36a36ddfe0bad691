"""Arm c: Ray Serve as its documentation teaches it, with `@serve.batch` and one handle call."""

from typing import Any, cast

import numpy as np
import openvino as ov
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from benchmarks.compiling import properties
from benchmarks.received import HEADER, received


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
class Model:
    def __init__(self, path: str) -> None:
        core = ov.Core()
        model = core.read_model(path)
        model.reshape([-1, *model.input(0).shape[1:]])
        self._compiled = core.compile_model(model, "CPU", properties())
        self._requests = 0
        self._batches = 0

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def infer(self, inputs: list[Any]) -> list[Any]:
        self._requests += len(inputs)
        self._batches += 1
        outputs = self._compiled([np.concatenate(inputs)])[0]
        if outputs.ndim == 4 and outputs.shape[-1] == 7:
            return [outputs[:, :, outputs[0, 0, :, 0] == i] for i in range(len(inputs))]
        return list(np.split(outputs, len(inputs)))

    async def statistics(self) -> dict[str, int]:
        return {"requests": self._requests, "batches": self._batches}


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
class Front:
    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    async def __call__(self, request: Request) -> Response:
        if request.url.path == "/stats":
            return JSONResponse(await self._model.statistics.remote())
        data = await received(await request.body(), request.headers[HEADER])
        return Response((await self._model.infer.remote(data)).tobytes())


def build(args: dict[str, str]) -> Any:
    front, model = cast("Any", Front), cast("Any", Model)
    return front.bind(model.bind(args["model"]))
