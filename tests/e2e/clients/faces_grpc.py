"""Detects faces in the arrays of an .npz file, as the clients of OpenVINO Model Server do.

It sends all arrays at once by `tritonclient.grpc`, and writes the detections to another file.

    python -m tests.e2e.clients.faces_grpc <host:port> <model> <in.npz> <out.npz>
"""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as triton


async def detect(address: str, model: str, source: str, target: str) -> None:
    async with triton.InferenceServerClient(address) as client:

        async def detections(pictures: np.ndarray) -> np.ndarray:
            tensor = triton.InferInput("data", pictures.shape, "FP32")
            tensor.set_data_from_numpy(pictures)
            result = await client.infer(model, [tensor])
            answer: np.ndarray = result.as_numpy("detection_out")
            return answer

        with np.load(source) as given:
            pictures = {name: given[name] for name in given.files}
        answers = await asyncio.gather(*map(detections, pictures.values()))
    np.savez(target, **dict(zip(pictures, answers, strict=True)))


if __name__ == "__main__":
    asyncio.run(detect(*sys.argv[1:]))
