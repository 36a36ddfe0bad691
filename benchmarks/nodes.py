"""A Ray cluster of several nodes on one machine, each in its own namespaces.

Like a container, a node has its own address on a bridge, processes, /tmp/ray and /dev/shm. So every
node has ports 8000 and 9000, nodes share no memory, and a test can kill a node with all its
processes, or cut it off from the others. Needs root and iproute2 (Linux).
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml

from tests.e2e.server import ray_environment

_PATIENCE_S: Final = 120.0
_RAY, _SERVE = (str(Path(sys.executable).with_name(name)) for name in ("ray", "serve"))
_OBJECT_STORE_BYTES: Final = 200 * 2**20
_ISOLATED: Final = """
mount -t tmpfs tmpfs /dev/shm && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && exec "$@"
"""


def why_not() -> str | None:
    """The reason why this machine cannot run nodes, None if it can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "needs root on Linux"
    if shutil.which("ip") is None:
        return "needs iproute2: apt-get install iproute2"
    try:
        name = f"probe-{secrets.token_hex(3)}"
        _ip("netns", "add", name)
        _ip("netns", "del", name)
        subprocess.run(["unshare", "-mpf", "--mount-proc", "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return f"may not make namespaces: {error.stderr.decode().strip()}"
    return None


@dataclass
class Node:
    """One node. `cpus` is its number for Ray, 0 for a node without replicas."""

    name: str
    address: str
    cpus: int
    process: psutil.Popen | None = None

    @property
    def http(self) -> str:
        return f"http://{self.address}:8000"

    @property
    def grpc(self) -> str:
        return f"{self.address}:9000"

    def processes(self, *words: str) -> list[psutil.Process]:
        """The node's processes with all these words in their command lines."""
        found = []
        for process in self.process.children(recursive=True) if self.process is not None else ():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = " ".join(process.cmdline())
                if all(word in line for word in words):
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kills all processes of the node."""
        if self.process is not None:
            # The kernel kills all processes of a namespace when the first one ends.
            for process in (*self.process.children(), self.process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)
            self.process = None

    def cut_off(self) -> None:
        """Disconnects the node's network without closing its connections."""
        _ip("-n", self.name, "link", "set", "eth0", "down")


@dataclass
class Nodes:
    """All nodes; the head has no replicas."""

    head: Node
    workers: list[Node]
    directory: Path
    _config: dict[str, Any] = field(default_factory=dict)
    _environment: dict[str, str] = field(default_factory=dict)

    @property
    def all(self) -> list[Node]:
        return [self.head, *self.workers]

    def start(self, node: Node) -> None:
        """Starts Ray on a node, and does not wait until it has joined."""
        if node is self.head:
            role = ["--head", "--port=6379", f"--dashboard-host={node.address}"]
        else:
            role = [f"--address={self.head.address}:6379"]
        command = [
            *("ip", "netns", "exec", node.name),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", _ISOLATED, "node", _RAY, "start", *role, "--block"),
            f"--node-ip-address={node.address}",
            f"--num-cpus={node.cpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--metrics-export-port=8080",
        ]
        with (self.directory / f"{node.name}.log").open("ab") as log:
            node.process = psutil.Popen(
                command,
                cwd=self.directory,  # Ray looks there first for the application's code
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Runs `serve deploy`, and does not wait until Serve has applied the configuration."""
        path = self.directory / "serve_config.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        address = f"http://{self.head.address}:8265"
        subprocess.run(
            [_SERVE, "deploy", "--address", address, str(path)],
            env=self._environment,
            capture_output=True,
            timeout=60,
            check=True,
        )

    def status(self) -> dict[str, Any]:
        """Serve's report on its applications."""
        token = self._environment["RAY_AUTH_TOKEN"]
        status: dict[str, Any] = httpx.get(
            f"http://{self.head.address}:8265/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        ).json()
        return status

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """Serve's replicas, with their replica_id, state, node_ip, pid and more.

        The pid is the one in the node's namespace; `process` finds the process.
        """
        deployments = self.status()["applications"]["anyshape"]["deployments"]
        replicas: list[dict[str, Any]] = deployments.get(deployment, {}).get("replicas", [])
        return replicas

    def process(self, replica: Mapping[str, Any]) -> psutil.Process:
        """The process of a replica, with its pid outside the namespaces."""
        node = next(node for node in self.all if node.address == replica["node_ip"])
        for process in node.processes():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                status = Path(f"/proc/{process.pid}/status").read_text()
                inner = next(s for s in status.splitlines() if s.startswith("NSpid:")).split()[-1]
                if int(inner) == replica["pid"]:
                    return process
        raise LookupError(f"no process {replica['pid']} on {node.name}")


@contextlib.contextmanager
def nodes(
    directory: Path, worker_cpus: Sequence[int], environment: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    """Starts a head and these workers with Ray, and removes everything afterwards."""
    tag = secrets.token_hex(3)
    network = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
    bridge = f"any-{tag}"
    head = Node(f"{bridge}-0", f"{network}.10", 0)
    workers = [
        Node(f"{bridge}-{number}", f"{network}.{10 + number}", cpus)
        for number, cpus in enumerate(worker_cpus, 1)
    ]
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        **ray_environment(),
        **(environment or {}),
    }
    cluster = Nodes(head, workers, directory, _environment=variables)
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, node in enumerate(cluster.all):
            stack.callback(_connect(node, bridge, f"v{tag}{number}"))
            stack.callback(node.kill)
            cluster.start(node)
            if node is head:
                _wait_for(lambda: _answers(cluster), "the head answers")
        _wait_for(lambda: len(_alive(cluster)) == len(cluster.all), "all nodes have joined")
        yield cluster


def _connect(node: Node, bridge: str, cable: str) -> Any:
    """Connects a node's own network to the bridge; returns a function that removes both."""
    _ip("netns", "add", node.name)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", node.name)
    _ip("link", "set", cable, "master", bridge, "up")
    _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", node.name, "link", "set", device, "up")
    return lambda: _ip("netns", "del", node.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _answers(cluster: Nodes) -> bool:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        return bool(_alive(cluster))
    return False


def _alive(cluster: Nodes) -> list[Any]:
    token = cluster._environment["RAY_AUTH_TOKEN"]
    reply = httpx.get(
        f"http://{cluster.head.address}:8265/nodes?view=summary",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    ).json()
    summary = reply["data"]["summary"]
    return [node for node in summary if node["raylet"].get("state") == "ALIVE"]


def _wait_for(holds: Any, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:.0f} s: {what}")
        time.sleep(0.2)
