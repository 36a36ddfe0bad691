"""The arms that serve: each starts a server, says where each model is asked, and ends it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.workloads import DETECTOR, HEADER, body
from tests.e2e.server import family, free_ports, running, stop

ROOT = Path(__file__).parents[1]
START_S = 90.0


@dataclass(frozen=True)
class Target:
    """A running arm: the URL that takes inferences and the processes that answer them."""

    url: str
    processes: Callable[[], list[psutil.Process]]

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def _wait(url: str, shape: tuple[int, ...]) -> None:
    content, length = body(shape)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.post(url, content=content, headers={HEADER: str(length)}, timeout=30)
            if reply.status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")


@contextlib.contextmanager
def _answering(
    started: "subprocess.Popen[bytes]", url: str, shape: tuple[int, ...]
) -> Iterator[Target]:
    """The started server once it answers; it and all that it started are ended afterwards."""
    process = psutil.Process(started.pid)
    try:
        _wait(url, shape)
        yield Target(url, lambda: family(process))
    finally:
        stop(process)
        started.wait(10)


@contextlib.contextmanager
def one_process(
    model: Path, shape: tuple[int, ...], directory: Path, *, reload: bool
) -> Iterator[Target]:
    """Starlette and uvicorn with the model inside."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.one_process", "--model", str(model)]
    command += ["--port", str(port)] + (["--reload"] if reload else [])
    with _answering(
        subprocess.Popen(command, cwd=ROOT), f"http://127.0.0.1:{port}/infer", shape
    ) as target:
        yield target


@contextlib.contextmanager
def as_documented(model: Path, shape: tuple[int, ...], directory: Path) -> Iterator[Target]:
    """Ray Serve with `@serve.batch` behind its own proxy."""
    (port,) = free_ports(1)
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "documented",
                "import_path": "benchmarks.as_documented:build",
                "args": {"model": str(model)},
            }
        ],
    }
    path = directory / "documented.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = Path(sys.executable).with_name("serve")
    with (directory / "documented.log").open("wb") as log:
        started = subprocess.Popen(
            [serve, "run", path],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_ADDRESS": "local"},
        )
    with _answering(started, f"http://127.0.0.1:{port}/", shape) as target:
        yield target


@contextlib.contextmanager
def this_project(models: dict[str, Path], name: str, directory: Path) -> Iterator[Target]:
    """`serve run` on serve_config.yaml, with the benchmark's models in place of its own."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"] = {"models": [{"name": name, "source": str(models[name])}]}
    with running(config, directory) as server:
        url = f"{server.url}/v2/models/{name}/infer"
        _wait(url, (1, 3, 300, 300) if name == DETECTOR else (1, 10))
        yield Target(url, lambda: family(server.process))
