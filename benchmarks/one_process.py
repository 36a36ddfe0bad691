"""Arms b and e: one process, Starlette and uvicorn, the model inside.

`careful` is what a careful user writes by hand: as many inferences at once as OpenVINO asks for,
in threads, one compilation for every shape. `reload` is OpenVINO Model Server's rule for
`shape auto`: one compiled shape, a lock, reshape and compile whenever a request's shape differs.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

HEADER = "inference-header-content-length"


class Compiled:
    """A compilation and its infer requests."""

    def __init__(self, model: ov.Model, shape: Sequence[int]) -> None:
        model = model.clone()
        model.reshape(list(shape))
        compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(2 * self.streams):
            self._idle.put(compiled.create_infer_request())

    def infer(self, data: Any) -> bytes:
        request = self._idle.get()
        request.set_input_tensor(0, ov.Tensor(data, shared_memory=True))
        request.infer()
        result = request.get_output_tensor(0).data.tobytes()
        self._idle.put(request)
        return bytes(result)


class Server:
    """One model behind POST /infer, in the KServe v2 binary form."""

    def __init__(self, path: str, *, reload: bool) -> None:
        self._model = ov.Core().read_model(path)
        self._reload = reload
        self._compiled: dict[tuple[int, ...], Compiled] = {}
        self._lock = asyncio.Lock()
        first = tuple(self._model.input(0).shape)
        self._compiled[first] = Compiled(self._model, first)
        self._threads = ThreadPoolExecutor(2 * self._compiled[first].streams)
        self._running = 0
        self._idle = asyncio.Event()

    async def infer(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
        length = int(request.headers[HEADER])
        shape = tuple(json.loads(body[:length])["inputs"][0]["shape"])
        data = np.frombuffer(body, np.uint8)[length:].copy().view(np.float32).reshape(shape)
        raw = await (self._reloading(shape, data) if self._reload else self._kept(shape, data))
        count = len(raw) // 4
        head = {
            "outputs": [
                {
                    "name": "out",
                    "datatype": "FP32",
                    "shape": [count],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
        encoded = json.dumps(head).encode()
        return Response(encoded + raw, headers={HEADER: str(len(encoded))})

    async def _kept(self, shape: tuple[int, ...], data: Any) -> bytes:
        if shape not in self._compiled:
            async with self._lock:
                if shape not in self._compiled:
                    compiled = await asyncio.to_thread(Compiled, self._model, shape)
                    self._compiled[shape] = compiled
        return await self._run(self._compiled[shape], data)

    async def _reloading(self, shape: tuple[int, ...], data: Any) -> bytes:
        while shape not in self._compiled:
            async with self._lock:
                if shape in self._compiled:
                    break
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
                self._compiled = {}
                self._compiled = {shape: await asyncio.to_thread(Compiled, self._model, shape)}
        return await self._run(self._compiled[shape], data)

    async def _run(self, compiled: Compiled, data: Any) -> bytes:
        self._running += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, compiled.infer, data)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--reload", action="store_true")
    arguments = parser.parse_args()
    server = Server(arguments.model, reload=arguments.reload)
    app = Starlette(routes=[Route("/infer", server.infer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
