"""`make bench-gate`: a short run that fails where this project is not well ahead of Ray Serve."""

import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.measuring import Plan, repetition
from benchmarks.models import build_models, default_detector
from benchmarks.verdict import Goal, reached
from benchmarks.workloads import ANYSHAPE, DOCUMENTED, ONE_SHAPE

LEAST: Final = 2.5  # issue 3
REPETITIONS: Final = 2
SECONDS: Final = 4


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("the load generator wrk is missing: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # on the way out the servers are ended
    arms = (ANYSHAPE, DOCUMENTED)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        models = build_models(directory, default_detector())
        plan = Plan([ONE_SHAPE], arms[::-1], models, SECONDS, directory)
        rows = [{**row, "repetition": n} for n in range(REPETITIONS) for row in repetition(plan)]
    goal = Goal("f / c", LEAST, LEAST, ONE_SHAPE.name, arms)
    ratios = reached(goal, rows, [])
    errors = sum(row["errors"] for row in rows)
    ratio = statistics.median(ratios)
    each = ", ".join(f"{number:.2f}" for number in ratios)
    print(f"{ONE_SHAPE.name}: anyshape / Ray Serve as documented {ratio:.2f} ({each})")
    if errors:
        sys.exit(f"bench-gate failed: {errors} requests failed")
    if ratio < LEAST:
        sys.exit(f"bench-gate failed: {ratio:.2f} is below {LEAST}")


if __name__ == "__main__":
    main()
