"""One repetition: every workload on every arm, one after the other."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks import wrk
from benchmarks.arms import SERVING, Target
from benchmarks.models import ROOT
from benchmarks.workloads import BARE, Workload

Row: TypeAlias = dict[str, Any]
WARM_UP_S: Final = 2
QUIET_POLL_S: Final = 0.05


class OutOfShapes(Exception):
    """Raised when an arm answered more requests than there are shapes it has not seen."""

    def __init__(self, workload: str, answers: int, shapes: int) -> None:
        super().__init__(f"{workload}: {answers} answers, {shapes} shapes; choose fewer --seconds")


@dataclass(frozen=True)
class Plan:
    """What is measured: workloads by model, arms by name, for so long."""

    workloads: Sequence[Workload]
    arms: Sequence[str]
    models: dict[str, Path]
    seconds: int
    directory: Path


def load(target: Target, workload: Workload, seconds: int, directory: Path) -> Row:
    """What wrk measures on a running arm, and what the arm itself counts meanwhile.

    The measurement begins at the middle of the workload's order, the warm-up at its start, so
    that with unseen shapes neither sees one of the other's.
    """
    requests, half = wrk.written(workload, directory), len(workload.order) // 2
    warm_up = wrk.run(target.url, requests, workload.clients, WARM_UP_S)
    _wait_until_quiet(target)
    cpu, counted = target.cpu_seconds(), target.counters()
    outcome = wrk.run(target.url, requests, workload.clients, seconds, half)
    cpu = target.cpu_seconds() - cpu
    answers = max(warm_up.answers, outcome.answers) + workload.clients
    if workload.unseen and answers > half:
        raise OutOfShapes(workload.name, answers, half)
    return {
        "requests_per_s": outcome.per_second,
        "p50_ms": outcome.p50_ms,
        "p95_ms": outcome.p95_ms,
        "p99_ms": outcome.p99_ms,
        "errors": outcome.refused + outcome.broken,
        "cpu_ms_per_request": 1e3 * cpu / max(1, outcome.answers),
        "resident_mb": target.resident_bytes() / 1e6,
        **_counted(target.counters(), counted),
    }


def _wait_until_quiet(target: Target) -> None:
    """Waits for requests whose clients are gone: where each compiles, they take seconds."""
    while target.counters()["in_flight"]:
        time.sleep(QUIET_POLL_S)


def _counted(after: dict[str, int], before: dict[str, int]) -> Row:
    """What an arm's counters rose by; an arm that does not count something has no such entry."""
    names = ("compiles", "hits", "served_dynamic", "batches", "stacked_batches")
    row: Row = {name: after[name] - before[name] for name in names if name in after}
    if row.get("batches"):
        row["mean_batch"] = (after["requests"] - before["requests"]) / row["batches"]
    return row


def bare(model: Path, workload: Workload, seconds: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.bare", "--model", str(model)]
    command += ["--shapes", json.dumps(workload.shapes), "--seconds", str(seconds)]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(ran.stdout)
    return row


def repetition(plan: Plan) -> Iterator[Row]:
    """The rows of every workload that is for an arm, as they come."""
    for server in dict.fromkeys(workload.server for workload in plan.workloads):
        together = [workload for workload in plan.workloads if workload.server == server]
        for arm in plan.arms:
            if mine := [workload for workload in together if arm in workload.arms]:
                yield from _on_arm(arm, mine, plan)


def _on_arm(arm: str, workloads: Sequence[Workload], plan: Plan) -> Iterator[Row]:
    model = plan.models[workloads[0].model]
    if arm == BARE:
        for workload in workloads:
            yield _named(arm, workload, bare(model, workload, plan.seconds))
        return
    with SERVING[arm](model, workloads[0], plan.directory) as target:
        for workload in workloads:
            yield _named(arm, workload, load(target, workload, plan.seconds, plan.directory))


def _named(arm: str, workload: Workload, row: Row) -> Row:
    print(f"{arm:11} {workload.name:38} {row['requests_per_s']:8.1f}/s", flush=True)
    return {"workload": workload.name, "arm": arm, **row}
