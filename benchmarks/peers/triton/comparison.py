"""`make bench-peers`: compares Triton, with OpenVINO in its Python backend, with this project.

All arms are up at the same time. They are measured in turns of seconds, while the others are
stopped. Before that, the answers of each arm are compared with OpenVINO's own, and an arm with
wrong answers is skipped.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.compiling import PRECISION
from benchmarks.machine import machine
from benchmarks.measuring import Row
from benchmarks.models import ROOT, build_models, default_detector
from benchmarks.peers.triton.arms import ARMS, TWO_REPLICAS
from benchmarks.peers.triton.goals import bars
from benchmarks.peers.triton.groups import GROUPS, Run
from benchmarks.peers.triton.measuring import Span
from benchmarks.peers.triton.report import report
from benchmarks.precision import settle_precision
from benchmarks.report import write_block
from benchmarks.workloads import DETECTOR

BLOCK = "beside triton"


def main(options: Sequence[str]) -> None:
    arguments = parsed(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    if arguments.precision:
        os.environ[PRECISION] = arguments.precision
    with tempfile.TemporaryDirectory() as temporary:
        for run in measured(arguments, Path(temporary)):
            arguments.output.write_text(json.dumps(run, indent=1) + "\n")
    print(report(run))
    plot.save_ratios(bars(run["repetitions"]), arguments.output.with_suffix(".png"))
    if arguments.write_readme:
        write_block(report(run), BLOCK)


def parsed(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument(
        "--seconds", type=int, default=8, help="for each arm and workload (%(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if arm != TWO_REPLICAS]
    )
    parser.add_argument(
        "--detector", type=Path, default=default_detector(), help="an IR: [1,3,H,W] FP32 in"
    )
    parser.add_argument("--precision", help="f32, bf16 or f16 for all arms")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "beside_triton.json")
    parser.add_argument(
        "--write-readme", action="store_true", help="write the tables to benchmarks/README.md"
    )
    if shutil.which("wrk") is None:
        parser.error("the load generator wrk is missing: apt-get install wrk")
    return parser.parse_args(options)


def measured(arguments: argparse.Namespace, directory: Path) -> Iterator[dict[str, Any]]:
    """Yields the content of the JSON file after each repetition."""
    models = build_models(directory, arguments.detector)
    if not arguments.precision:
        settle_precision(models[DETECTOR])
    shared = Run(models, Span(arguments.seconds, directory))
    rows: list[Row] = []
    for number in range(1, arguments.repetitions + 1):
        print(f"repetition {number} of {arguments.repetitions}", flush=True)
        order = arguments.arms[:: -1 if number % 2 == 0 else 1]
        for group in (GROUPS[name] for name in arguments.only):
            for row in shared.rows(group, order):
                print(line(row), flush=True)
                rows.append({**row, "repetition": number})
        yield {
            "machine": machine(),
            "detector": models[DETECTOR].stem,
            "seconds": arguments.seconds,
            "repetitions_done": number,
            "left_out": shared.left_out,
            "repetitions": [row for row in rows if row["arm"] not in shared.left_out],
        }


def line(row: Row) -> str:
    number = row.get("requests_per_s", row["resident_mb"])
    unit = "/s" if "requests_per_s" in row else " MB"
    return f"{row['workload']:42} {row['arm']:14} {number:8.1f}{unit} {row['errors']} errors"
