"""One server with many small models, whose answers are compared with OpenVINO's own."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import openvino as ov

from deployments.tensors import Tensor
from tests.e2e.conftest import F32, config, save
from tests.e2e.server import Server, running
from tests.e2e.wire import FORMS, asked, outputs_of, request_body
from tests.model.loading import assert_same, direct

Request: TypeAlias = Sequence[Tensor]


@contextmanager
def serving(
    models: Mapping[str, ov.Model], settings: Mapping[str, dict[str, Any]], directory: Path
) -> Iterator[Server]:
    """A server of these models, each computing in f32, all of them available."""
    for name, model in models.items():
        save(model, directory / "models", name)
    entries = [
        {"name": name, "source": name, "plugin_config": F32, **settings.get(name, {})}
        for name in models
    ]
    variables = {"ANYSHAPE_MODELS": str(directory / "models")}
    with running(config(entries), directory, variables) as server:
        check_available(server, models)
        yield server


def check_available(server: Server, names: Sequence[str] | Mapping[str, Any]) -> None:
    states = httpx.get(f"{server.url}/v2/models").json()["models"]
    assert dict.fromkeys(names, "AVAILABLE") == {
        model["name"]: model.get("reason") or model["state"] for model in states
    }


def sizes(server: Server, model: str, kind: str = "inputs") -> dict[str, list[int]]:
    """The shape that clients are told of each input or output."""
    metadata = httpx.get(f"{server.url}/v2/models/{model}").json()
    return {port["name"]: port["shape"] for port in metadata[kind]}


def check_same(server: Server, name: str, model: ov.Model, request: Request) -> None:
    """By every protocol the answer is that of a direct call at just these shapes, bit for bit."""
    expected = direct(model, request)
    for form in FORMS:
        assert_same(expected, asked(server, name, request, form))


async def check_together(
    server: Server, name: str, model: ov.Model, requests: Sequence[Request], times: int = 12
) -> None:
    """Requests that are under way at once each get the answer that they would get alone."""
    expected = [direct(model, request) for request in requests] * times
    bodies = [request_body(request, binary=True) for request in requests] * times
    async with httpx.AsyncClient(base_url=server.url, timeout=50) as client:

        async def one(body: bytes, headers: dict[str, str]) -> list[Tensor]:
            target = f"/v2/models/{name}/infer"
            return outputs_of(await client.post(target, content=body, headers=headers))

        answers = await asyncio.gather(*(one(*body) for body in bodies))
    for wanted, answer in zip(expected, answers, strict=True):
        assert_same(wanted, answer)
