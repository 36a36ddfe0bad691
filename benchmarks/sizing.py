"""`make bench-sizing`: compares numbers of replicas of a model, and of cores for each.

One replica reserves all cores, or several replicas reserve one core each or none. 16 clients send
requests of one size, or of two in turn.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.arms import this_project
from benchmarks.measuring import Row, load
from benchmarks.models import build_models, default_detector
from benchmarks.workloads import ONE_SHAPE, WORKLOADS, Workload

CORES: Final = psutil.cpu_count() or 1
ALTERNATING: Final = next(w for w in WORKLOADS if w.name.startswith("two shapes alternating"))
LOADS: Final = (ONE_SHAPE, ALTERNATING)


def _replicas(count: int, cpus: int) -> dict[str, Any]:
    return {"num_replicas": count, "ray_actor_options": {"num_cpus": cpus}}


SIZES: Final[Mapping[str, dict[str, Any]]] = {
    f"one replica, `num_cpus: {CORES}`": _replicas(1, CORES),
    f"{CORES} replicas, `num_cpus: 1`": _replicas(CORES, 1),
    f"{CORES} replicas, `num_cpus: 0`": _replicas(CORES, 0),
}


def measured(model: Path, size: str, workload: Workload, seconds: int, directory: Path) -> Row:
    """Measures with all shapes compiled before the load begins."""
    deployment = SIZES[size]
    warm_up = [f"({','.join(map(str, shape))})" for shape in workload.shapes]
    with this_project(model, workload, directory, deployment=deployment, warm_up=warm_up) as target:
        target.wait_for_replicas(deployment["num_replicas"])
        return load(target, workload, seconds, directory)


def line(workload: Workload, size: str, rows: Sequence[Row], first: Sequence[Row]) -> str:
    """A line of medians; the ratio is to the first size in the same repetition."""
    rates = [row["requests_per_s"] for row in rows]
    ratios = [a / b["requests_per_s"] for a, b in zip(rates, first, strict=True)]
    between = f"{min(ratios):.2f} to {max(ratios):.2f}"
    numbers = (median(row[name] for row in rows) for name in ("p50_ms", "p99_ms", "resident_mb"))
    shown = " | ".join(f"{number:.0f}" for number in numbers)
    errors = sum(row["errors"] for row in rows)
    return (
        f"| {workload.name} | {size} | {median(rates):.0f} | {median(ratios):.2f} | {between} "
        f"| {shown} | {errors:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-sizing", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the load generator wrk is missing: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    rows: dict[tuple[str, str], list[Row]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        models = build_models(directory, default_detector())
        for _ in range(options.repetitions):
            for workload in LOADS:
                for size in SIZES:
                    model = models[workload.model]
                    row = measured(model, size, workload, options.seconds, directory)
                    print(workload.name, size, row, file=sys.stderr, flush=True)
                    rows.setdefault((workload.name, size), []).append(row)
    print("| load | model replicas | req/s | ratio | min to max | p50 ms | p99 ms | MB | errors |")
    print("|---|---|---:|---:|---|---:|---:|---:|---:|")
    for workload in LOADS:
        first = rows[workload.name, next(iter(SIZES))]
        for size in SIZES:
            print(line(workload, size, rows[workload.name, size], first))


if __name__ == "__main__":
    main()
