"""A real server: `serve run` on a configuration with free ports, ended by process id."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

START_S = 240.0
STOP_S = 60.0  # Serve gives the ingress 20 s to drain, and then the models 20 s
GRPC_PORTS = 10
NO_TLS = False  # for `verify=`: reading the certificates would take 25 ms a request
_SERVE = Path(sys.executable).with_name("serve")
ROOT = Path(__file__).parents[2]
_RAY_ENV = ROOT / "ray.env"


def ray_environment() -> dict[str, str]:
    """The environment variables of Ray in `make serve`."""
    lines = _RAY_ENV.read_text().splitlines()
    variables = (line.partition("=")[::2] for line in lines if line and not line.startswith("#"))
    return dict(variables)


class NotStarted(RuntimeError):
    """Raised when a server does not get ready; the text has the end of its log."""


def free_ports(count: int) -> list[int]:
    """Different ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def with_free_ports(config: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """The configuration with free ports, and these ports, the HTTP one first."""
    names = ["HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT"]
    names += ["FALLBACK_PROXY_HTTP_PORT", "FALLBACK_PROXY_GRPC_PORT"]
    ports = free_ports(2 + len(names))
    moved = dict(zip((f"RAY_SERVE_{name}" for name in names), map(str, ports[2:]), strict=True))
    # Ray's gRPC servers share ports without an error (SO_REUSEPORT), so those of two servers
    # would answer each other's calls.
    (first,) = free_ports(1)
    moved["RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT"] = str(first)
    moved["RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT"] = str(first + GRPC_PORTS)
    for part in (config["controller_options"], config["applications"][0]):
        variables = part["runtime_env"]["env_vars"]
        part["runtime_env"] = {"env_vars": {**variables, **moved}}
    config["http_options"] = {"host": "0.0.0.0", "port": ports[0]}
    config["grpc_options"] = {**config.get("grpc_options", {}), "port": ports[1]}
    return config, ports


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process
    log: Path
    ports: list[int]
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The model and the version of each name that is not a model."""

    def model(self, name: str) -> tuple[str, str]:
        """The model for this name, and its version, "" for the highest."""
        return self.versions.get(name, (name, ""))

    def path(self, name: str) -> str:
        model, version = self.model(name)
        return f"/v2/models/{model}" + (f"/versions/{version}" if version else "")

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def dashboard(self) -> str:
        """The URL for `serve deploy`."""
        found = re.search(r"View the dashboard at .*?(http://[0-9.:]+)", self.log.read_text())
        assert found is not None
        return found[1]

    def deploy(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Runs `serve deploy` with a changed configuration; does not wait until it is applied."""
        path = self.log.with_name("serve_config.yaml")
        config = yaml.safe_load(path.read_text())
        change(config["applications"][0])
        path.write_text(yaml.safe_dump(config))
        subprocess.run(
            [_SERVE, "deploy", "--address", self.dashboard, path],
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )

    def replicas(self) -> list[psutil.Process]:
        """The processes of the application's replicas."""
        found = []
        for member in family(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                if ":ServeReplica:anyshape:" in "".join(member.cmdline()[:1]):
                    found.append(member)
        return found

    def processes(self, title: str) -> list[psutil.Process]:
        """The server's processes with this title, which Ray sets."""
        found = []
        for member in family(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                if member.cmdline()[:1] == [title]:
                    found.append(member)
        return found

    def replica_pids(self, model: str) -> list[int]:
        return [replica["pid"] for replica in self.all_statistics(model)]

    def statistics(self, model: str) -> dict[str, Any]:
        """The counters of the model's only replica."""
        (replica,) = self.all_statistics(model)
        return replica

    def all_statistics(self, model: str) -> list[dict[str, Any]]:
        """The counters of each replica of the model."""
        reply = httpx.get(f"{self.url}{self.path(model)}/stats", timeout=10, verify=NO_TLS)
        assert reply.status_code == 200, reply.text
        replicas: list[dict[str, Any]] = reply.json()["replicas"]
        return replicas


@contextlib.contextmanager
def running(
    config: dict[str, Any], directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Starts a server, yields it when it is ready, and ends all its processes afterwards.

    Retries once if the server does not start: a free port may be taken before HAProxy binds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_started(config, directory, environment))
        except NotStarted as error:
            print(f"starting the server again: {error}", file=sys.stderr)
            server = stack.enter_context(_started(config, directory, environment))
        yield server


@contextlib.contextmanager
def _started(
    config: dict[str, Any], directory: Path, environment: Mapping[str, str] | None
) -> Iterator[Server]:
    config, ports = with_free_ports(config)
    path, log = directory / "serve_config.yaml", directory / "serve.log"
    path.write_text(yaml.safe_dump(config))
    variables = {**os.environ, "RAY_ADDRESS": "local", **ray_environment(), **(environment or {})}
    with log.open("wb") as output:
        started = subprocess.Popen(
            [_SERVE, "run", "--app-dir", Path.cwd(), path],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
        )
    process = psutil.Process(started.pid)
    try:
        server = Server(f"http://127.0.0.1:{ports[0]}", process, log, ports)
        _wait_until_ready(server, started)
        yield server
    finally:
        end(process)
        started.wait(10)


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants, such as HAProxy and the replicas."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(process: psutil.Process) -> None:
    """Kills the server: a graceful stop takes ten seconds and has its own tests."""
    members = family(process)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=10)


def stop(process: psutil.Process) -> list[psutil.Process]:
    """Stops the server as Ctrl-C does; kills and returns the processes that are left."""
    members = family(process)
    if not members:
        return []
    process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(members, timeout=STOP_S)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(left, timeout=10)
    return left


def _wait_until_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if (
                httpx.get(f"{server.url}/v2/health/ready", timeout=5, verify=NO_TLS).status_code
                == 200
            ):
                return
        time.sleep(0.2)  # polls, because a grandchild process owns the port
    raise NotStarted("the server did not start:\n" + server.log.read_text()[-4000:])
