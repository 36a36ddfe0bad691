"""`make bench-gate`: a short run that fails unless this project is well ahead of Ray Serve."""

import shutil
import signal
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.arms import SERVING
from benchmarks.measuring import load
from benchmarks.models import build_models, default_detector
from benchmarks.precision import settle_precision
from benchmarks.workloads import ANYSHAPE, DOCUMENTED, ONE_SHAPE

LEAST: Final = 2.5  # issue 3
REPETITIONS: Final = 3
SECONDS: Final = 3


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("the load generator wrk is missing: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    ratios, errors = measured()
    ratio = statistics.median(ratios)
    each = ", ".join(f"{number:.2f}" for number in ratios)
    print(f"{ONE_SHAPE.name}: anyshape / Ray Serve as documented {ratio:.2f} ({each})")
    if errors:
        sys.exit(f"bench-gate failed: {errors:.0f} requests failed")
    if ratio < LEAST:
        sys.exit(f"bench-gate failed: {ratio:.2f} is below {LEAST}")


def measured() -> tuple[list[float], float]:
    """The ratio of each repetition, and the number of failed requests.

    Both servers run all the time and get the load in turns, because starting them takes long.
    """
    ratios, errors = [], 0.0
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        directory = Path(temporary)
        model = build_models(directory, default_detector())[ONE_SHAPE.model]
        settle_precision(model)
        arms = (DOCUMENTED, ANYSHAPE)
        with ThreadPoolExecutor() as starting:
            started = starting.map(
                lambda arm: running.enter_context(SERVING[arm](model, ONE_SHAPE, directory)), arms
            )
        targets = dict(zip(arms, started, strict=True))
        for _ in range(REPETITIONS):
            rows = {
                arm: load(target, ONE_SHAPE, SECONDS, directory) for arm, target in targets.items()
            }
            errors += sum(row["errors"] for row in rows.values())
            rates = {arm: row["requests_per_s"] for arm, row in rows.items()}
            ratios.append(rates[ANYSHAPE] / rates[DOCUMENTED])
    return ratios, errors


if __name__ == "__main__":
    main()
