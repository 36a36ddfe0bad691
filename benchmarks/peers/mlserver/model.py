"""MLServer: a runtime after its guide "Custom Inference Runtimes", in MLServer's environment.

MLServer's REST API has no binary tensor extension: it reads every body as JSON. So the tensor is
one base64 string (content type `base64`, a BYTES tensor), with its shape in a parameter. As a list
of numbers (content type `np`) the 1.08 MB are 5 MB of JSON, and five times as slow.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import Base64Codec, NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceResponse  # type: ignore[import-not-found]

from benchmarks.peers.runtime import Runtime


class OpenVINOModel(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._runtime = await asyncio.to_thread(Runtime, self.settings.parameters.uri)
        self._threads = ThreadPoolExecutor(self._runtime.threads)
        return True

    async def predict(self, payload: Any) -> Any:
        (entry,) = payload.inputs
        (raw,) = Base64Codec.decode_input(entry)
        data = np.frombuffer(raw, np.float32).reshape(entry.parameters.tensor_shape)
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, self._runtime.infer, data)
        outputs = [NumpyCodec.encode_output("out", result)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
