"""The arms: this project with one or more replicas, and two variants of Triton's model."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.arms import Target, this_project
from benchmarks.measuring import wait_until_quiet
from benchmarks.peers.triton import server
from benchmarks.workloads import Workload
from tests.e2e.server import family

OURS: Final = "ours"
TWO_REPLICAS: Final = "ours-2x1"
STATIC: Final = "triton-static"
DYNAMIC: Final = "triton-dynamic"
LOOK_S: Final = 0.2
WORKING_CORES: Final = 0.2
"""Triton does not report its requests in flight: below this use of cores it counts as done."""


@dataclass(frozen=True)
class Configuration:
    """A configuration of this project: options of the deployments, settings of the model."""

    deployment: Mapping[str, Any] = field(default_factory=dict)
    ingress: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        return int(self.deployment.get("num_replicas", 1))


CONFIGURATIONS: Final[Mapping[str, Configuration]] = {
    OURS: Configuration(),
    TWO_REPLICAS: Configuration({"num_replicas": 2, "ray_actor_options": {"num_cpus": 1}}),
}
VARIANTS: Final[Mapping[str, server.Compilations]] = {STATIC: "static", DYNAMIC: "dynamic"}
ARMS: Final = (*CONFIGURATIONS, *VARIANTS)


@dataclass(frozen=True)
class Arm:
    """A running server; `wait_until_done` returns when no request is in flight."""

    name: str
    target: Target
    wait_until_done: Callable[[], None]

    @property
    def is_ours(self) -> bool:
        return self.name in CONFIGURATIONS


def started(
    name: str, first: Workload, model: Path, directory: Path, settings: Mapping[str, Any]
) -> AbstractContextManager[Arm]:
    """Starts an arm, yields it when it is ready, and ends all its processes afterwards.

    `settings` are for this project only.
    """
    if name in VARIANTS:
        return _triton(name, first, model, directory)
    configuration = CONFIGURATIONS[name]
    merged = {**configuration.settings, **settings}
    return _ours(name, first, model, directory, replace(configuration, settings=merged))


@contextmanager
def _ours(
    name: str, first: Workload, model: Path, directory: Path, configuration: Configuration
) -> Iterator[Arm]:
    home = directory / name
    home.mkdir(exist_ok=True)
    with this_project(
        model,
        first,
        home,
        deployment=configuration.deployment,
        ingress=configuration.ingress,
        **configuration.settings,
    ) as target:
        target.wait_for_replicas(configuration.replicas)
        yield Arm(name, target, partial(wait_until_quiet, target))


@contextmanager
def _triton(name: str, first: Workload, model: Path, directory: Path) -> Iterator[Arm]:
    with server.started(first.model, model, VARIANTS[name], directory) as (url, process):
        target = Target(url, "", lambda: family(process))
        yield Arm(name, target, partial(_wait_until_idle, target))


def _wait_until_idle(target: Target) -> None:
    before = target.cpu_seconds()
    while True:
        time.sleep(LOOK_S)
        now = target.cpu_seconds()
        if now - before < WORKING_CORES * LOOK_S:
            return
        before = now
