"""`make bench`: measures all arms on all workloads, in turns; writes tables, JSON and a plot."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.compiling import PRECISION
from benchmarks.machine import machine
from benchmarks.measuring import Plan, Row
from benchmarks.models import ROOT, build_models, default_detector
from benchmarks.precision import settle_precision
from benchmarks.report import report, write_readme
from benchmarks.results import summary
from benchmarks.special import special_rows
from benchmarks.turns import repetition
from benchmarks.workloads import ARMS, DETECTOR, WORKLOADS


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--detector",
        type=Path,
        default=default_detector(),
        help="an IR with the face detector's inputs and outputs (default: ../shared, then `spots`)",
    )
    parser.add_argument(
        "--seconds", type=int, default=8, help="for each arm and workload (%(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated (%(default)s)")
    parser.add_argument("--workloads", default="", help="only those with this text in the name")
    parser.add_argument(
        "--precision",
        help="f32, bf16 or f16 for all arms (default: OpenVINO's choice or f32, the faster one)",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument(
        "--write-readme", action="store_true", help="write the tables to benchmarks/README.md"
    )
    arguments = parser.parse_args()
    arguments.arms = arguments.arms.split(",")
    if unknown := set(arguments.arms) - set(ARMS):
        parser.error(f"no such arms: {', '.join(sorted(unknown))}")
    if shutil.which("wrk") is None:
        parser.error("the load generator wrk is missing: apt-get install wrk")
    return arguments


def measured(arguments: argparse.Namespace, directory: Path) -> Iterator[dict[str, Any]]:
    """Yields the content of the JSON file after each repetition."""
    chosen = [w for w in WORKLOADS if arguments.workloads in w.name]
    models = build_models(directory, arguments.detector)
    if not arguments.precision:
        settle_precision(models[DETECTOR])
    plan = Plan(chosen, arguments.arms, models, arguments.seconds, directory)
    rows: list[Row] = []
    special: list[Row] = []
    for number in range(1, arguments.repetitions + 1):
        print(f"repetition {number} of {arguments.repetitions}", flush=True)
        for row in repetition(plan):
            print("{workload:38} {arm:12} {requests_per_s:8.1f}/s".format(**row), flush=True)
            rows.append({**row, "repetition": number})
        found = special_rows(plan, arguments.workloads)
        special += [{**row, "repetition": number} for row in found]
        yield {
            "machine": machine(),
            "detector": "spots" if arguments.detector is None else arguments.detector.stem,
            "seconds": arguments.seconds,
            "repetitions_done": number,
            "results": summary(rows),
            "repetitions": rows,
            "special": special,
        }


def main() -> None:
    arguments = parsed()
    if arguments.precision:
        os.environ[PRECISION] = arguments.precision
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    with tempfile.TemporaryDirectory() as temporary:
        for run in measured(arguments, Path(temporary)):
            arguments.output.write_text(json.dumps(run, indent=1) + "\n")
    print(report(run))
    if run["results"]:
        plot.save(arguments.output, arguments.output.with_suffix(".png"))
    if arguments.write_readme:
        write_readme(run, f"results {arguments.precision}" if arguments.precision else "results")


if __name__ == "__main__":
    main()
