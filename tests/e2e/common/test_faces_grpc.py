"""The contract of OpenVINO Model Server's face detection demo: FP32 [N,3,H,W] of any size to
`face-detection` over gRPC gives `detection_out`, as a direct call would."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openvino as ov
import pytest

from tests.e2e.client import Array, direct, infer_async, picture_tensor
from tests.e2e.server import Server
from tests.shared import FACE_MODEL, PEOPLE, needs_shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_shared]

SIZES = [(300, 300), (600, 400), (420, 315)]
PICTURES = ["people2.jpeg", "people3.jpeg", "people4.jpeg"]
MODEL = "face-detection"


def batches() -> list[Array]:
    """Batches of 1, 4 and 8 pictures at each of the sizes."""
    return [
        np.concatenate([picture_tensor(PEOPLE / PICTURES[n % 3], size) for n in range(count)])
        for size in SIZES
        for count in (1, 4, 8)
    ]


async def over_grpc(server: Server, tensors: list[Array], directory: Path) -> list[Array]:
    """In a process of its own: the client's messages have the names of the server's."""
    given, answered = directory / "given.npz", directory / "answered.npz"
    named: dict[str, Any] = {str(number): tensor for number, tensor in enumerate(tensors)}
    np.savez(given, **named)
    arguments = ["-m", "tests.e2e.clients.faces_grpc", server.grpc, MODEL]
    arguments += [str(given), str(answered)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 200)
    assert not process.returncode, errors.decode()
    with np.load(answered) as answers:
        return [answers[str(number)] for number in range(len(tensors))]


async def over_http(server: Server, tensors: list[Array]) -> list[Array]:
    async with httpx.AsyncClient(base_url=server.url, timeout=100) as client:
        replies = await asyncio.gather(
            *(infer_async(client, MODEL, {"data": tensor}) for tensor in tensors)
        )
    return [reply["detection_out"] for reply in replies]


async def test_clients_of_both_protocols_get_what_a_direct_call_gives(
    server: Server, tmp_path: Path
) -> None:
    model = ov.Core().read_model(FACE_MODEL)
    tensors = batches()
    expected = [direct(model, tensor) for tensor in tensors]
    for tensor, detections in zip(tensors, expected, strict=True):
        assert (1, 1, 200 * len(tensor), 7) == detections.shape

    by_grpc, by_http = await asyncio.gather(
        over_grpc(server, tensors * 2, tmp_path), over_http(server, tensors * 3)
    )

    wanted = [detections.tobytes() for detections in expected]
    assert wanted * 2 == [answer.tobytes() for answer in by_grpc]
    assert wanted * 3 == [answer.tobytes() for answer in by_http]
