"""Compares a server's answers with OpenVINO's own."""

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import httpx
import openvino as ov

from deployments.tensors import Tensor
from tests.e2e.server import NO_TLS, Server
from tests.e2e.wire import FORMS, asked, outputs_of, request_body
from tests.model.loading import assert_same, direct

Request: TypeAlias = Sequence[Tensor]


def sizes(server: Server, model: str, kind: str = "inputs") -> dict[str, list[int]]:
    """The shape in the model's metadata of each input or output."""
    metadata = httpx.get(server.url + server.path(model), verify=NO_TLS).json()
    return {port["name"]: port["shape"] for port in metadata[kind]}


def check_same(server: Server, name: str, model: ov.Model, request: Request) -> None:
    """Checks that the answer over every protocol equals OpenVINO's own, bit for bit."""
    expected = direct(model, request)
    for form in FORMS:
        assert_same(expected, asked(server, name, request, form))


async def check_together(
    server: Server,
    name: str,
    model: ov.Model,
    requests: Sequence[Request],
    times: int = 12,
    clients: int = 100,
) -> None:
    """Checks that requests in flight at the same time get the same answers as alone."""
    expected = [direct(model, request) for request in requests] * times
    bodies = [request_body(request, binary=True) for request in requests] * times
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=50, limits=limits) as client:

        async def one(body: bytes, headers: dict[str, str]) -> list[Tensor]:
            target = f"{server.path(name)}/infer"
            return outputs_of(await client.post(target, content=body, headers=headers))

        answers = await asyncio.gather(*(one(*body) for body in bodies))
    for wanted, answer in zip(expected, answers, strict=True):
        assert_same(wanted, answer)
