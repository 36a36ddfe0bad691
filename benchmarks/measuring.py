"""What a running arm does under a workload's load."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks import wrk
from benchmarks.arms import Target
from benchmarks.workloads import Workload

Row: TypeAlias = dict[str, Any]
WARM_UP_S: Final = 2
QUIET_POLL_S: Final = 0.05


@dataclass(frozen=True)
class Plan:
    """What is measured: workloads by model, arms by name, for so long in a repetition."""

    workloads: Sequence[Workload]
    arms: Sequence[str]
    models: dict[str, Path]
    seconds: int
    directory: Path


def load(target: Target, workload: Workload, seconds: int, directory: Path) -> Row:
    """What is measured in one piece, after a warm-up.

    It begins at the middle of the workload's order, the warm-up at its start.
    """
    wrk.run(target.url, wrk.written(workload, directory), workload.clients, WARM_UP_S)
    wait_until_quiet(target)
    return measured(target, workload, seconds, directory, len(workload.order) // 2)[0]


def measured(
    target: Target, workload: Workload, seconds: int, directory: Path, offset: int
) -> tuple[Row, int]:
    """What wrk measures from request `offset` on, and what the arm itself counts meanwhile; and
    how many answers there were."""
    requests = wrk.written(workload, directory)
    cpu, counted = target.cpu_seconds(), target.counters()
    outcome = wrk.run(target.url, requests, workload.clients, seconds, offset)
    cpu = target.cpu_seconds() - cpu
    row = {
        "requests_per_s": outcome.per_second,
        "p50_ms": outcome.p50_ms,
        "p95_ms": outcome.p95_ms,
        "p99_ms": outcome.p99_ms,
        "errors": outcome.refused + outcome.broken,
        "cpu_ms_per_request": 1e3 * cpu / max(1, outcome.answers),
        "resident_mb": target.resident_bytes() / 1e6,
        **_counted(target.counters(), counted),
    }
    return row, outcome.answers


def wait_until_quiet(target: Target) -> None:
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
