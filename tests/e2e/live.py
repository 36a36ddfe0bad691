"""A model whose answers contain its version, and clients that send requests all the time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openvino as ov
import openvino.opset15 as op

CLIENTS = 16
PATIENCE_S = 40.0


def counting_model(number: int) -> ov.Model:
    """A model that adds the number to [N,L]."""
    data = op.parameter([-1, -1], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    # Weights of some size, so that a test can truncate their file.
    weights = op.constant(np.full((1, 1000), number / 1000, np.float32))
    total = op.add(data, op.reduce_sum(weights, op.constant(np.array([1], np.int64)), True))
    total.output(0).set_names({"sum"})
    return ov.Model([op.result(total)], [data], "counting")


def put_version(model: Path, number: int) -> None:
    """Writes a version directory file by file, the weights last."""
    folder = model / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(counting_model(number), folder / "m.xml", compress_to_fp16=False)


@dataclass
class Load:
    """The clients' answers: their number, the last version, and all errors."""

    asked: int = 0
    last: int = 0
    wrong: list[str] = field(default_factory=list)

    async def ask_on(self, http: httpx.AsyncClient, path: str, size: int) -> None:
        """Sends requests until it is cancelled."""
        inputs = [{"name": "data", "datatype": "FP32", "shape": [1, size], "data": [0.0] * size}]
        while True:
            response = await http.post(f"{path}/infer", json={"inputs": inputs})
            self.asked += 1
            if response.status_code != 200:
                self.wrong.append(f"{response.status_code} {response.text[:300]}")
                continue
            told = response.json()
            values = np.round(told["outputs"][0]["data"], 3).tolist()
            self.last = int(told["model_version"])
            if [float(self.last)] * size != values:
                self.wrong.append(f"version {self.last} answered {values}")


@contextlib.asynccontextmanager
async def load(url: str, path: str, sizes: tuple[int, ...] = (3,)) -> AsyncIterator[Load]:
    """Runs sixteen clients during the context, and checks at its end that nothing failed."""
    seen = Load()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:
        clients = [
            asyncio.ensure_future(seen.ask_on(http, path, sizes[client % len(sizes)]))
            for client in range(CLIENTS)
        ]
        try:
            await until(lambda: seen.asked >= CLIENTS)
            yield seen
            before = seen.asked
            await until(lambda: seen.asked >= before + 2 * CLIENTS)
        finally:
            for client in clients:
                client.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
    assert [] == seen.wrong
    assert [] == [repr(e) for e in ended if not isinstance(e, asyncio.CancelledError)]


async def until(holds: Callable[[], bool]) -> None:
    """Polls a condition: it depends on other processes, so there is no event to await."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.05)


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (seen := await look()) != wanted:
        assert time.monotonic() < deadline, f"{seen!r} stays, wanted is {wanted!r}"
        await asyncio.sleep(0.1)


async def states(http: httpx.AsyncClient, model: str) -> dict[str, str]:
    """The state of each version."""
    config = (await http.get("/v1/config")).json()
    told = config.get(model, {"model_version_status": []})["model_version_status"]
    return {version["version"]: version["state"] for version in told}


async def reason(http: httpx.AsyncClient, model: str, version: str) -> str:
    config = (await http.get("/v1/config")).json()
    for told in config[model]["model_version_status"]:
        if told["version"] == version:
            return str(told["status"]["error_message"])
    return ""
