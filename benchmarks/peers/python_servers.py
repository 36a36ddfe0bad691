"""`make bench-peers BENCH=python`: compares three Python servers with OpenVINO and this project.

It measures MLServer, LitServe and BentoML with tensors of one shape, and of two.

Each peer runs as its documentation recommends for speed, with a throughput hint and a compilation
for every shape. It gets the tensor in the form of body that it reads fastest (`wire.py`). Before a
measurement of an arm, its answers are compared with OpenVINO's own.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import openvino as ov

from benchmarks.peers.arms import OURS, Arm, our_arms, peer_arms
from benchmarks.peers.environments import ROOT, requirements
from benchmarks.peers.measuring import (
    WORKLOADS,
    Shape,
    bare,
    expected,
    load,
    make_ready,
)
from benchmarks.peers.servers import PEERS
from benchmarks.peers.table import Measured, summary, table
from benchmarks.peers.wire import Tensor
from benchmarks.precision import settle_precision
from deployments.model.openvino.spots import spots_model

BARE_CLIENTS = 16  # bare OpenVINO has no clients: it is the limit for many
NAMES = ["bare", *OURS, *(peer.name for peer in PEERS)]


def main(options: Sequence[str]) -> None:
    arguments = parsed(options)
    arms, left_out = peer_arms(arguments.arms)
    arms = [*our_arms(arguments.arms), *arms]
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as directory:
        model = (arguments.detector or built_in(Path(directory))).resolve()
        settle_precision(model)
        answers = expected(model)
        for _ in range(arguments.repetitions):
            if "bare" in arguments.arms:
                measured += limits(model, arguments.seconds)
            for arm in arms:
                if arm.name not in left_out:
                    rows, reason = tried(one_arm(arm, model, answers, arguments.seconds))
                    measured += rows
                    left_out |= {arm.name: reason} if reason else {}
    results = summary(row for row in measured if row[1] not in left_out)
    run = {
        "detector": model.stem,
        "seconds": arguments.seconds,
        "repetitions": arguments.repetitions,
        "versions": {"openvino": ov.__version__, **{p.name: pinned(p.name) for p in PEERS}},
        "left_out": left_out,
        "results": results,
    }
    arguments.output.write_text(json.dumps(run, indent=1) + "\n")
    print(table(results))


def parsed(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-peers BENCH=python")
    parser.add_argument("--seconds", type=int, default=8, help="for each measurement (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--detector", type=Path, default=beside(), help="an IR: [1,3,H,W] FP32 in")
    parser.add_argument("--arms", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "peers.json")
    if shutil.which("wrk") is None:
        parser.error("the load generator wrk is missing: apt-get install wrk")
    return parser.parse_args(options)


def beside() -> Path | None:
    """The face detector in ../shared, if it is there."""
    found = sorted((ROOT.parent / "shared" / "models" / "face-detection" / "1").glob("*.xml"))
    return found[0] if found else None


def built_in(directory: Path) -> Path:
    path = directory / "spots.xml"
    ov.save_model(spots_model(), path, compress_to_fp16=False)
    return path


def pinned(peer: str) -> str:
    lines = requirements(peer).read_text().splitlines()
    (version,) = [line.partition("==")[2] for line in lines if line.startswith(f"{peer}==")]
    return version


def limits(model: Path, seconds: int) -> list[Measured]:
    many = [workload for workload in WORKLOADS if workload.clients == BARE_CLIENTS]
    return [(workload.name, "bare", bare(model, workload, seconds)) for workload in many]


def tried(rows: Iterator[Measured]) -> tuple[list[Measured], str]:
    """The measurements, and the error if the arm failed."""
    measured: list[Measured] = []
    try:
        measured.extend(rows)
    except RuntimeError as error:
        print(f"skipped: {error}", flush=True)
        return measured, str(error)
    return measured, ""


def one_arm(
    arm: Arm, model: Path, answers: dict[Shape, list[Tensor]], seconds: int
) -> Iterator[Measured]:
    """Measures all workloads on one start of the arm, with its files in a separate directory."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with arm.start(model, directory) as url:
            make_ready(url, arm.wire, answers)
            for workload in WORKLOADS:
                row = load(url, arm.wire, workload, seconds, directory)
                print(f"{arm.name:9} {workload.name:35} {row['requests_per_s']:7.1f}/s", flush=True)
                yield workload.name, arm.name, row
