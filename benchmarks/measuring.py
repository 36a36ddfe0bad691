"""Measures a running arm under a workload's load."""

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
    """The workloads, arms and models to measure, and the seconds of each in a repetition."""

    workloads: Sequence[Workload]
    arms: Sequence[str]
    models: dict[str, Path]
    seconds: int
    directory: Path


def load(target: Target, workload: Workload, seconds: int, directory: Path) -> Row:
    """Measures an arm in one piece, after a warm-up.

    The warm-up begins at the start of the workload's order, the measurement in the middle.
    """
    wrk.run(target.url, wrk.written(workload, directory), workload.clients, WARM_UP_S)
    wait_until_quiet(target)
    return measured(target, workload, seconds, directory, len(workload.order) // 2)[0]


def measured(
    target: Target, workload: Workload, seconds: int, directory: Path, offset: int
) -> tuple[Row, int]:
    """Measures from request `offset` on, with wrk and the arm's own counters.

    Returns the figures and the number of answers.
    """
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
    """Waits until no request is in flight. One whose client left takes seconds if it compiles."""
    while target.counters()["in_flight"]:
        time.sleep(QUIET_POLL_S)


def _counted(after: dict[str, int], before: dict[str, int]) -> Row:
    """The increases of an arm's counters, without those that it does not have."""
    names = ("compiles", "hits", "served_dynamic", "batches", "stacked_batches")
    row: Row = {name: after[name] - before[name] for name in names if name in after}
    if row.get("batches"):
        row["mean_batch"] = (after["requests"] - before["requests"]) / row["batches"]
    return row
