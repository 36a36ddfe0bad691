"""LitServe: an asynchronous LitAPI with a worker for the model and two for HTTP, in its own env.

The tensor is a .npy file in a form, as LitServe documents for files. That was the fastest way:
base64 in JSON and a plain body (`Annotated[bytes, Body()]`) took twice as long. `fast_queue` stays
off, because it has no effect in 0.2.19: the server passes the choice of ZeroMQ on under a name that
its transport's settings do not know.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from fastapi import Request, Response

from benchmarks.peers.runtime import Runtime


class Detector(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str) -> None:
        super().__init__(enable_async=True)
        self._path = model

    def setup(self, device: str) -> None:
        self._runtime = Runtime(self._path)
        self._threads = ThreadPoolExecutor(self._runtime.threads)

    async def decode_request(self, request: Request) -> Any:
        return np.load(request["data"].file)

    async def predict(self, x: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._runtime.infer, x)

    async def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    server = litserve.LitServer(Detector(arguments.model), accelerator="cpu")
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=2,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
