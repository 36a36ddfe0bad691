"""`make bench-failures`: kills one part after the other of three nodes under load.

A head and two workers, each in its own namespaces, run the configuration of `cluster/`. Sixteen
clients send requests to all three nodes over both protocols, and check each answer.
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import httpx
import openvino as ov
import yaml

from benchmarks.crowd import MODEL, Account, Address, crowd, plus_one
from benchmarks.models import ROOT
from benchmarks.nodes import Node, Nodes, nodes, why_not
from deployments.settings import INGRESS_NAME

REPLICAS: Final = 2
WORKER_CPUS: Final = (8, 8)
"""On each worker twice what all replicas take: it may have them all when their successors start.
If it were full, all successors of a deployment would start on the other worker."""
_DEPLOYMENTS: Final = (INGRESS_NAME, MODEL)
_PATIENCE_S: Final = 180.0
_AFTER_S: Final = 3.0
_SETTLED: Final = 200

Over: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether the cluster has recovered."""
Happens: TypeAlias = Callable[[], Awaitable[Over]]


@dataclass
class Cluster:
    """The three nodes with the application, whose code is a copy in `code`."""

    nodes: Nodes
    config: dict[str, Any]
    code: Path

    @property
    def addresses(self) -> list[Address]:
        return [Address(node.http, node.grpc) for node in self.nodes.all]

    @property
    def application(self) -> dict[str, Any]:
        application: dict[str, Any] = self.config["applications"][0]
        return application

    def deployment(self, name: str) -> dict[str, Any]:
        """The deployment's part of the configuration."""
        deployments: list[dict[str, Any]] = self.application["deployments"]
        return next(deployment for deployment in deployments if deployment["name"] == name)

    def deploy(self) -> None:
        self.nodes.deploy(self.config)

    def ids(self) -> set[str]:
        """The ids of all replicas."""
        return {r["replica_id"] for name in _DEPLOYMENTS for r in self.nodes.replicas(name)}

    def is_spread(self) -> bool:
        """Whether each deployment has replicas on every worker, and on no other node."""
        workers = {node.address for node in self.nodes.workers}
        places = (self.nodes.replicas(name) for name in _DEPLOYMENTS)
        return all(workers == {replica["node_ip"] for replica in there} for there in places)

    async def whole(self, without: Collection[str] = (), but_for: Collection[Node] = ()) -> bool:
        """Whether exactly the configured replicas run, and every running node answers.

        None of the replicas may be in `without` or on the nodes `but_for`, which need not answer.
        """
        return await asyncio.to_thread(self.is_whole, without, but_for)

    def is_whole(self, without: Collection[str] = (), but_for: Collection[Node] = ()) -> bool:
        gone = {node.address for node in but_for}
        for name in _DEPLOYMENTS:
            there = self.nodes.replicas(name)
            if len(there) != self.deployment(name)["num_replicas"] or any(
                replica["state"] != "RUNNING"
                or replica["replica_id"] in without
                or replica["node_ip"] in gone
                for replica in there
            ):
                return False
        up = [node for node in self.nodes.all if node.process is not None]
        return all(_answers(node) for node in up if node not in but_for)


def _answers(node: Node) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        ready = httpx.get(f"{node.http}/v2/models/{MODEL}/ready", timeout=5, verify=False)
        return ready.status_code == 200
    return False


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Cluster]:
    """Starts the cluster, and yields it when all nodes answer."""
    code, models = directory / "code", directory / "models"
    shutil.copytree(ROOT / "deployments", code / "deployments")
    (models / MODEL / "1").mkdir(parents=True)
    ov.save_model(plus_one(), models / MODEL / "1" / "model.xml", compress_to_fp16=False)
    config = yaml.safe_load((ROOT / "cluster" / "serve_config.yaml").read_text("utf-8"))
    application = config["applications"][0]
    application["args"] = {"models": [{"name": MODEL, "source": MODEL}]}
    application["deployments"] = [
        {"name": name, "num_replicas": REPLICAS, "ray_actor_options": {"num_cpus": 1}}
        for name in _DEPLOYMENTS
    ]
    environment = {"ANYSHAPE_MODELS": str(models), "PYTHONPATH": str(code)}
    with nodes(directory, WORKER_CPUS, environment) as machines:
        cluster = Cluster(machines, config, code)
        cluster.deploy()
        deadline = time.monotonic() + _PATIENCE_S
        while not _started(cluster):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster does not start: {machines.status()}")
            time.sleep(0.3)
        yield cluster


def _started(cluster: Cluster) -> bool:
    with contextlib.suppress(KeyError, ValueError, httpx.HTTPError):
        return cluster.is_whole()
    return False


# Failures and changes -----------------------------------------------------------------------------


async def nothing(cluster: Cluster) -> Over:
    return cluster.whole


async def signal_replica(cluster: Cluster, deployment: str, number: signal.Signals) -> Over:
    replica = (await asyncio.to_thread(cluster.nodes.replicas, deployment))[0]
    cluster.nodes.process(replica).send_signal(number)
    return partial(cluster.whole, without={replica["replica_id"]})


async def kill_haproxy(cluster: Cluster, node: Node) -> Over:
    for process in node.processes("haproxy", "-f"):
        process.kill()
    return cluster.whole


async def kill_node(cluster: Cluster, node: Node) -> Over:
    await asyncio.to_thread(node.kill)
    return partial(cluster.whole, but_for=[node])


async def cut_node_off(cluster: Cluster, node: Node) -> Over:
    node.cut_off()
    return partial(cluster.whole, but_for=[node])


async def start_node(cluster: Cluster, node: Node) -> Over:
    """Restarts a killed node, and replaces all replicas so that some of them start there."""
    await asyncio.to_thread(cluster.nodes.start, node)
    return await update_code(cluster)


async def update_code(cluster: Cluster) -> Over:
    """Changes a source file and a variable: Serve checks code only if the configuration changes."""
    old = await asyncio.to_thread(cluster.ids)
    with (cluster.code / "deployments" / "errors.py").open("a") as file:
        file.write(f"# {time.time()}\n")
    environment = cluster.application["runtime_env"]
    environment["env_vars"] = {**environment["env_vars"], "RELEASE": str(time.time())}
    await asyncio.to_thread(cluster.deploy)
    return partial(cluster.whole, without=old)


async def update_settings(cluster: Cluster) -> Over:
    """Changes a setting that replicas apply, and a limit that replaces them."""
    old = await asyncio.to_thread(cluster.ids)
    cluster.deployment(MODEL)["user_config"] = {"max_compiled_shapes": 5}
    limits = cluster.application["args"].setdefault("limits", {"inputs": 32})
    limits["inputs"] += 1
    await asyncio.to_thread(cluster.deploy)
    return partial(cluster.whole, without=old)


async def scale(cluster: Cluster, replicas: int) -> Over:
    for name in _DEPLOYMENTS:
        cluster.deployment(name)["num_replicas"] = replicas
    await asyncio.to_thread(cluster.deploy)
    return cluster.whole


def happenings(cluster: Cluster) -> dict[str, Happens]:
    """All failures and changes, in an order in which each finds the nodes and replicas it needs."""
    head, (first, second) = cluster.nodes.head, cluster.nodes.workers
    to_replica = partial(signal_replica, cluster)
    return {
        "nothing": partial(nothing, cluster),
        "model replica killed": partial(to_replica, MODEL, signal.SIGKILL),
        "ingress replica killed": partial(to_replica, INGRESS_NAME, signal.SIGKILL),
        "HAProxy of a worker killed": partial(kill_haproxy, cluster, first),
        "HAProxy of the head killed": partial(kill_haproxy, cluster, head),
        "model replica hangs": partial(to_replica, MODEL, signal.SIGSTOP),
        "ingress replica hangs": partial(to_replica, INGRESS_NAME, signal.SIGSTOP),
        "new code": partial(update_code, cluster),
        "new settings": partial(update_settings, cluster),
        "from two replicas to three": partial(scale, cluster, 3),
        "from three replicas to one": partial(scale, cluster, 1),
        "from one replica to two": partial(scale, cluster, 2),
        "worker killed": partial(kill_node, cluster, second),
        "worker back, new code": partial(start_node, cluster, second),
        "worker cut off": partial(cut_node_off, cluster, second),
    }


# Requests meanwhile -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """The outcomes of requests from a failure until three seconds after the recovery."""

    name: str
    recovered_s: float
    requests: int
    failed: int
    again: int
    refused: int
    wrong: int
    longest_s: float
    reasons: Sequence[str]


@contextlib.asynccontextmanager
async def under_load(cluster: Cluster) -> AsyncIterator[Account]:
    async with crowd(cluster.addresses) as account:
        await account.answered(_SETTLED)
        yield account


async def watched(account: Account, name: str, happens: Happens) -> Event:
    """Causes a failure and waits for the recovery. Raises TimeoutError."""
    account.begin()
    began = time.monotonic()
    over = await happens()
    while not await over():
        if time.monotonic() - began > _PATIENCE_S:
            raise TimeoutError(f"{name}: no recovery within {_PATIENCE_S:.0f} s; {account}")
        await asyncio.sleep(0.1)
    recovered_s = time.monotonic() - began
    await asyncio.sleep(_AFTER_S)
    outcomes = account.outcomes
    return Event(
        name,
        recovered_s,
        sum(outcomes.values()) - outcomes["refused"],
        outcomes["failed"],
        account.again,
        outcomes["refused"],
        outcomes["wrong"],
        account.longest_s,
        tuple(account.reasons),
    )


async def one_after_the_other(cluster: Cluster, only: str) -> list[Event]:
    events = []
    async with under_load(cluster) as account:
        for name, happens in happenings(cluster).items():
            if only in name:
                events.append(await watched(account, name, happens))
                print(name, "; ".join(events[-1].reasons), file=sys.stderr, flush=True)
    return events


def table(runs: Sequence[Sequence[Event]]) -> Iterator[str]:
    """The sums of the counts over all runs, the longest wait, and the median recovery time."""
    yield (
        "| what happens | requests | failed | failed again | refused | wrong | longest wait "
        "| all well after |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for same in zip(*runs, strict=True):
        counts = [
            sum(getattr(event, name) for event in same)
            for name in ("requests", "failed", "again", "refused", "wrong")
        ]
        longest_s = max(event.longest_s for event in same)
        recovered_s = median(event.recovered_s for event in same)
        numbers = " | ".join(f"{count:,}" for count in counts)
        yield f"| {same[0].name} | {numbers} | {longest_s:.1f} s | {recovered_s:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-failures", description=__doc__)
    parser.add_argument("--only", default="", help="only failures with this in the name")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if (reason := why_not()) is not None:
        sys.exit(f"bench-failures {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the nodes are ended
    runs = []
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as cluster:
            runs.append(asyncio.run(one_after_the_other(cluster, options.only)))
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
