"""Arms b and e: one process with Starlette, uvicorn and the model.

`careful` is a server as a careful user writes it by hand: as many inferences at once as OpenVINO
recommends, in threads, with a compilation for every shape. `reload` is the same server with one
compilation that it reloads for each change of shape. `model-server` has the steps of OpenVINO Model
Server.
"""

import argparse
import json
from typing import Final

import openvino as ov
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.compilations import (
    KeepAll,
    ModelServer,
    NotLoadedYet,
    ReloadPerChange,
    Rule,
)
from benchmarks.received import HEADER, received

RULES: Final[dict[str, type[Rule]]] = {
    "keep": KeepAll,
    "reload": ReloadPerChange,
    "model-server": ModelServer,
}


class Server:
    """One model behind POST /infer, in the KServe v2 binary form, and GET /stats."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._in_flight = 0

    async def infer(self, request: Request) -> Response:
        self._in_flight += 1
        try:
            return await self._answer(request)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
        data = await received(body, request.headers[HEADER])
        try:
            raw = await self._rule.infer(data)
        except NotLoadedYet:
            reason = "Model with requested version is not loaded yet"
            return JSONResponse({"error": reason}, status_code=404)
        head = _head(raw)
        return Response(head + raw, headers={HEADER: str(len(head))})

    async def statistics(self, request: Request) -> Response:
        counts = {"compiles": self._rule.compiles, "in_flight": self._in_flight}
        return JSONResponse(counts)


def _head(raw: bytes) -> bytes:
    output = {
        "name": "out",
        "datatype": "FP32",
        "shape": [len(raw) // 4],
        "parameters": {"binary_data_size": len(raw)},
    }
    return json.dumps({"outputs": [output]}).encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rule", choices=RULES, default="keep")
    arguments = parser.parse_args()
    server = Server(RULES[arguments.rule](ov.Core().read_model(arguments.model)))
    routes = [
        Route("/infer", server.infer, methods=["POST"]),
        Route("/stats", server.statistics),
    ]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=arguments.port, log_level="error")


if __name__ == "__main__":
    main()
