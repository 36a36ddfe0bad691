"""Starts the peers' servers in their environments."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.peers.environments import ROOT
from benchmarks.peers.wire import KSERVE_BASE64, NPY_FORM, PLAIN, Wire
from tests.e2e.server import family, free_ports, stop

PACKAGE: Final = "benchmarks.peers"


@dataclass(frozen=True)
class Peer:
    """A server to compare. `command` gets the directory of the environment's commands, the model,
    a port and a directory for files."""

    name: str
    path: str
    wire: Wire
    command: Callable[[Path, Path, int, Path], list[str | Path]]


def _mlserver(commands: Path, model: Path, port: int, directory: Path) -> list[str | Path]:
    """Starts MLServer in one process: with inference workers it was as slow or slower."""
    grpc, metrics = free_ports(2)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    settings |= {"debug": False, "parallel_workers": 0}
    served = {"name": "detector", "implementation": f"{PACKAGE}.mlserver.model.OpenVINOModel"}
    repository = directory / "detector"
    repository.mkdir()
    (repository / "settings.json").write_text(json.dumps(settings))
    (repository / "model-settings.json").write_text(
        json.dumps({**served, "parameters": {"uri": str(model)}})
    )
    return [commands / "mlserver", "start", repository]


def _litserve(commands: Path, model: Path, port: int, directory: Path) -> list[str | Path]:
    command: list[str | Path] = [commands / "python", "-m", f"{PACKAGE}.litserve.server"]
    return [*command, "--model", model, "--port", str(port)]


def _bentoml(commands: Path, model: Path, port: int, directory: Path) -> list[str | Path]:
    command: list[str | Path] = [
        commands / "bentoml",
        "serve",
        f"{PACKAGE}.bentoml.service:Detector",
    ]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


PEERS: Final = (
    Peer("mlserver", "/v2/models/detector/infer", KSERVE_BASE64, _mlserver),
    Peer("litserve", "/predict", NPY_FORM, _litserve),
    Peer("bentoml", "/infer", PLAIN, _bentoml),
)


@contextmanager
def started(peer: Peer, commands: Path, model: Path, directory: Path) -> Iterator[str]:
    """Starts a server, yields its URL before it is ready, and ends all processes afterwards."""
    (port,) = free_ports(1)
    home = directory / f"{peer.name}-{port}"
    home.mkdir()
    variables = {"PYTHONPATH": str(ROOT), "PEER_MODEL": str(model), "TMPDIR": str(home)}
    variables |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = peer.command(commands, model, port, home)
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=home, env={**os.environ, **variables}, stdout=log, stderr=log
        )
    process = psutil.Process(server.pid)
    try:
        yield f"http://127.0.0.1:{port}{peer.path}"
    finally:
        members = family(process)
        stop(process)
        end(members)
        server.wait(10)


def end(members: list[psutil.Process]) -> None:
    """Kills the processes that still run after the end of their parent."""
    for member in members:
        if member.is_running():
            member.kill()
    psutil.wait_procs(members, timeout=10)
