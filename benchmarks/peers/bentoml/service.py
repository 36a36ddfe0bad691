"""BentoML: a service whose API runs in threads, in BentoML's own environment.

The body is the tensor's bytes (a positional-only `bytes` argument is the whole body), and a header
has its shape. A `numpy.ndarray` argument would travel as JSON numbers: BentoML's binary form of it
is a pickle, which it does not accept from clients.
"""

import json
import os

import bentoml  # type: ignore[import-not-found]
import numpy as np

from benchmarks.peers.runtime import Runtime

THREADS = 2 * (os.cpu_count() or 1)


@bentoml.service(
    threads=THREADS,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Detector:
    def __init__(self) -> None:
        self._runtime = Runtime(os.environ["PEER_MODEL"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def infer(self, body: bytes, /, ctx: bentoml.Context) -> bytes:
        shape = json.loads(ctx.request.headers["shape"])
        data = np.frombuffer(body, np.float32).reshape(shape)
        return bytes(self._runtime.infer(data).tobytes())
