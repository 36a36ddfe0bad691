"""The arms that are servers: each starts a server, yields its URLs, and ends it."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import psutil
import yaml

from benchmarks.bodies import HEADER, body
from benchmarks.compiling import precision
from benchmarks.models import ROOT
from benchmarks.workloads import ANYSHAPE, CAREFUL, DOCUMENTED, MODEL_SERVER, RELOAD, Workload
from deployments.settings.model import INGRESS_NAME
from tests.e2e.server import end, family, free_ports, running

START_S: Final = 90.0


@dataclass(frozen=True)
class Target:
    """A running arm: the URLs of inferences and statistics, and its processes."""

    url: str
    stats_url: str
    processes: Callable[[], list[psutil.Process]]

    def replicas(self) -> list[dict[str, Any]]:
        """The statistics of every process that has the model."""
        reply = httpx.get(self.stats_url, timeout=30).raise_for_status().json()
        replicas: list[dict[str, Any]] = reply.get("replicas", [reply])
        return replicas

    def wait_for_replicas(self, count: int) -> None:
        while len(self.replicas()) < count:
            pass  # each call takes a while

    def counters(self) -> Counter[str]:
        """The sums over the replicas of all integers in the statistics."""
        total: Counter[str] = Counter()
        for replica in self.replicas():
            total.update({key: n for key, n in replica.items() if type(n) is int})
        return total

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


# Starts an arm, from a model, its first workload and a directory for files.
Arm: TypeAlias = Callable[[Path, Workload, Path], AbstractContextManager[Target]]


def _wait(url: str, first: Workload) -> None:
    content, length = body(first.form, first.shapes[0])
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
    started: "subprocess.Popen[bytes]", base: str, path: str, first: Workload
) -> Iterator[Target]:
    """Yields the started server once it answers, and ends all its processes afterwards."""
    process = psutil.Process(started.pid)
    try:
        _wait(base + path, first)
        yield Target(base + path, base + "/stats", lambda: family(process))
    finally:
        end(process)
        started.wait(10)


@contextlib.contextmanager
def one_process(
    model: Path, first: Workload, directory: Path, *, rule: str = "keep"
) -> Iterator[Target]:
    """Starlette and uvicorn, with the model in the same process."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.one_process", "--model", str(model)]
    command += ["--port", str(port), "--rule", rule]
    started = subprocess.Popen(command, cwd=ROOT)
    with _answering(started, f"http://127.0.0.1:{port}", "/infer", first) as target:
        yield target


@contextlib.contextmanager
def as_documented(model: Path, first: Workload, directory: Path) -> Iterator[Target]:
    """Ray Serve with `@serve.batch` behind its own proxy."""
    (port,) = free_ports(1)
    application = {
        "name": "documented",
        "import_path": "benchmarks.as_documented:build",
        "args": {"model": str(model)},
    }
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }
    path = directory / "documented.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = Path(sys.executable).with_name("serve")
    with (directory / "documented.log").open("wb") as log:
        started = subprocess.Popen(
            [serve, "run", "--app-dir", ROOT, path],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_ADDRESS": "local"},
        )
    with _answering(started, f"http://127.0.0.1:{port}", "/", first) as target:
        yield target


def serving(
    name: str,
    model: Path,
    deployment: Mapping[str, Any] | None = None,
    ingress: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """serve_config.yaml with this model instead of its own, and with options of the deployments."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    application = config["applications"][0]
    application["args"] = {"models": [{"name": name, "source": str(model), **settings}]}
    application["deployments"] = [{"name": name, **(deployment or {})}]
    application["deployments"] += [{"name": INGRESS_NAME, **ingress}] if ingress else []
    return config


@contextlib.contextmanager
def this_project(
    model: Path,
    first: Workload,
    directory: Path,
    *,
    deployment: Mapping[str, Any] | None = None,
    ingress: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Target]:
    """Starts `serve run` on serve_config.yaml, with the benchmark's model instead of its own."""
    if asked := precision():
        settings.setdefault("plugin_config", asked)
    config = serving(first.model, model, deployment, ingress, **settings)
    with running(config, directory) as server:
        base = f"{server.url}/v2/models/{first.model}"
        _wait(f"{base}/infer", first)
        yield Target(f"{base}/infer", f"{base}/stats", lambda: family(server.process))


SERVING: Final[Mapping[str, Arm]] = {
    CAREFUL: one_process,
    RELOAD: partial(one_process, rule="reload"),
    MODEL_SERVER: partial(one_process, rule="model-server"),
    DOCUMENTED: as_documented,
    ANYSHAPE: this_project,
}
