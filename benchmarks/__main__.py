"""`make bench`: all arms over all workloads, interleaved, as a table and as JSON."""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as op

from benchmarks.arms import ROOT, Target, as_documented, one_process, this_project
from benchmarks.workloads import DETECTOR, TINY, WORKLOADS, Workload, lua_script
from deployments.model.spots import spots_model

Row = dict[str, Any]
WARM_UP_S = 2


def models(directory: Path, detector: Path | None) -> dict[str, Path]:
    """The detector (the built-in spots where none is given) and a model that adds one."""
    if detector is None:
        detector = directory / "spots.xml"
        ov.save_model(spots_model(), detector, compress_to_fp16=False)
    data = op.parameter([1, 10], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    tiny = directory / "tiny.xml"
    total = op.add(data, op.constant(np.float32(1)))
    ov.save_model(ov.Model([op.result(total)], [data], "tiny"), tiny)
    return {DETECTOR: detector.resolve(), TINY: tiny}


def load(target: Target, workload: Workload, seconds: int, directory: Path) -> Row:
    """What wrk measures on a running arm."""
    script = lua_script(workload, directory)

    def wrk(duration: int) -> list[int]:
        command = ["wrk", "-t1", f"-c{workload.clients}", f"-d{duration}s", "--timeout", "30s"]
        ran = subprocess.run(
            [*command, "-s", str(script), target.url], capture_output=True, text=True, check=True
        )
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
        return [int(number) for number in line.split()[1:]]

    wrk(WARM_UP_S)
    before = target.cpu_seconds()
    requests, microseconds, p50, p95, p99, refused, broken = wrk(seconds)
    return {
        "requests_per_s": requests / (microseconds / 1e6),
        "p50_ms": p50 / 1e3,
        "p95_ms": p95 / 1e3,
        "p99_ms": p99 / 1e3,
        "errors": refused + broken,
        "cpu_ms_per_request": 1e3 * (target.cpu_seconds() - before) / max(1, requests),
        "resident_mb": target.resident_bytes() / 1e6,
    }


def bare(path: Path, workload: Workload, seconds: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.bare", "--model", str(path)]
    command += ["--shapes", json.dumps(workload.shapes), "--seconds", str(seconds)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {"requests_per_s": float(ran.stdout), "errors": 0}


def repetition(
    arms: dict[str, Callable[[str, Path], AbstractContextManager[Target]]],
    paths: dict[str, Path],
    workloads: list[Workload],
    seconds: int,
    directory: Path,
) -> list[tuple[str, str, Row]]:
    """Every workload on every arm, one after the other."""
    rows: list[tuple[str, str, Row]] = []
    for model in sorted({workload.model for workload in workloads}):
        mine = [workload for workload in workloads if workload.model == model]
        rows += [
            ("bare", workload.name, bare(paths[model], workload, seconds))
            for workload in mine
            if workload.clients == 16 or model == TINY
        ]
        for name, arm in arms.items():
            with arm(model, directory) as target:
                for workload in mine:
                    row = load(target, workload, seconds, directory)
                    rows.append((name, workload.name, row))
                    print(
                        f"{name:14} {workload.name:36} {row['requests_per_s']:8.1f}/s", flush=True
                    )
    return rows


def summary(rows: list[tuple[str, str, Row]]) -> list[Row]:
    """Medians over the repetitions, and the spread of the throughput."""
    grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for arm, workload, row in rows:
        grouped[workload, arm].append(row)
    result = []
    for (workload, arm), group in grouped.items():
        medians = {key: statistics.median(row[key] for row in group) for key in group[0]}
        rates = [row["requests_per_s"] for row in group]
        medians["spread"] = (max(rates) - min(rates)) / statistics.median(rates)
        result.append({"workload": workload, "arm": arm, **medians})
    return sorted(result, key=lambda row: (row["workload"], row["arm"]))


def table(results: list[Row]) -> str:
    lines = [
        "| workload | arm | req/s | spread | p50 ms | p95 ms | p99 ms | CPU ms/req | MB | errors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        times = [f"{row[k]:.1f}" if k in row else "" for k in ("p50_ms", "p95_ms", "p99_ms")]
        costs = [f"{row[k]:.1f}" if k in row else "" for k in ("cpu_ms_per_request", "resident_mb")]
        cells = [row["workload"], row["arm"], f"{row['requests_per_s']:.1f}"]
        cells += [f"{row['spread']:.0%}", *times, *costs, f"{row['errors']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", type=Path, help="an IR with the face detector's contract")
    parser.add_argument("--seconds", type=int, default=8, help="for each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--arms", default="careful,reload,documented,anyshape")
    parser.add_argument("--workloads", default="", help="only those whose name holds this text")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results.json")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("the load generator wrk is missing: apt-get install wrk")
    chosen = [w for w in WORKLOADS if arguments.workloads in w.name]
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        paths = models(directory, arguments.detector)
        first = {w.model: w.shapes[0] for w in WORKLOADS}
        known: dict[str, Callable[[str, Path], AbstractContextManager[Target]]] = {
            "careful": lambda m, d: one_process(paths[m], first[m], d, reload=False),
            "reload": lambda m, d: one_process(paths[m], first[m], d, reload=True),
            "documented": lambda m, d: as_documented(paths[m], first[m], d),
            "anyshape": partial(this_project, paths),
        }
        arms = {name: known[name] for name in arguments.arms.split(",")}
        rows = []
        for _ in range(arguments.repetitions):
            rows += repetition(arms, paths, chosen, arguments.seconds, directory)
    results = summary(rows)
    machine = {"cpu": platform.processor() or platform.machine(), "openvino": ov.__version__}
    arguments.output.write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
