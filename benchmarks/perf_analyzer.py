"""`make bench-clients`: loads this project over HTTP and gRPC with Triton's perf_analyzer.

The binary is from the last wheel of tritonclient that contains it. This installs it and the two
libraries that it needs under build/perf_analyzer, without root.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.arms import serving
from benchmarks.models import ROOT, build_models, default_detector
from benchmarks.workloads import DETECTOR
from tests.e2e.server import Server, running

HOME: Final = ROOT / "build" / "perf_analyzer"
WHEELS: Final = {
    "tritonclient==2.51.0": "bin/perf_analyzer",
    "nvidia-cuda-runtime-cu12==12.6.77": "lib/libcudart.so.12",
}
LIBRARY: Final = "libb64-0d"
PROTOCOLS: Final = ("http", "grpc")
ONE: Final = (1, 3, 300, 300)
OTHER: Final = (1, 3, 400, 600)


class CannotInstall(Exception):
    """Raised when the binary or its libraries cannot be downloaded or unpacked."""


@dataclass(frozen=True)
class Figures:
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def installed() -> Path:
    """Installs the binary; returns its path. Raises CannotInstall."""
    binary = HOME / "bin" / "perf_analyzer"
    complete = HOME / "complete"
    if not complete.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        for wheel, wanted in WHEELS.items():
            _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", HOME, wheel)
            _unpack(wheel.partition("==")[0].replace("-", "_"), wanted)
        _run("apt-get", "download", "-qq", LIBRARY)
        (package,) = HOME.glob(f"{LIBRARY}_*.deb")
        _run("dpkg-deb", "-x", package, HOME / "debian")
        binary.chmod(0o755)
        complete.touch()
    return binary


def environment() -> dict[str, str]:
    places = {path.parent for path in HOME.rglob("lib*.so*")}
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, sorted(places)))}


def _run(*command: str | Path) -> None:
    try:
        ran = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotInstall(f"{command[0]}: {error.strerror}") from None
    if ran.returncode:
        raise CannotInstall(f"{' '.join(map(str, command))}: {ran.stderr.strip()[-300:]}")


def _unpack(package: str, wanted: str) -> None:
    (wheel,) = HOME.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(f"/{wanted}"))
        target = HOME / wanted
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(archive.read(member))


def analyze(
    server: Server, model: str, protocol: str, shape: tuple[int, ...], clients: int, seconds: float
) -> Figures:
    """Runs perf_analyzer. Raises RuntimeError with its output if a request failed."""
    port = server.ports[PROTOCOLS.index(protocol)]
    with tempfile.TemporaryDirectory() as directory:
        table = Path(directory) / "table.csv"
        command: list[str | Path] = [
            *(installed(), "-m", model, "-i", protocol, "-u", f"127.0.0.1:{port}"),
            *("--shape", f"data:{','.join(map(str, shape))}", "-b", "1"),
            *("--concurrency-range", str(clients), "-f", table),
            *("--measurement-interval", str(int(1000 * seconds))),
            *("--max-trials", "3", "--stability-percentage", "999"),
        ]
        ran = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False, timeout=300
        )
        if ran.returncode or not table.exists():
            raise RuntimeError(f"perf_analyzer {protocol}: {(ran.stdout + ran.stderr)[-2000:]}")
        (row,) = csv.DictReader(table.read_text().splitlines())
    return Figures(
        float(row["Inferences/Second"]),
        float(row["p50 latency"]) / 1000,
        float(row["p99 latency"]) / 1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf_analyzer")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    arguments = parser.parse_args()
    try:
        installed()
    except CannotInstall as error:
        sys.exit(f"perf_analyzer cannot be installed: {error}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = build_models(directory, default_detector())[DETECTOR]
        with running(serving(DETECTOR, model), directory) as server:
            print("| shape | clients | protocol | req/s | p50 ms | p99 ms | gRPC / HTTP |")
            print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
            for shape in (ONE, OTHER):
                for clients in arguments.clients:
                    _compared(server, shape, clients, arguments.seconds, arguments.repetitions)


def _compared(
    server: Server, shape: tuple[int, ...], clients: int, seconds: float, repetitions: int
) -> None:
    """Measures both protocols in turns; prints their medians and the median ratio of a turn."""
    runs = [
        {p: analyze(server, DETECTOR, p, shape, clients, seconds) for p in PROTOCOLS}
        for _ in range(repetitions)
    ]
    ratios = [run["grpc"].requests_per_s / run["http"].requests_per_s for run in runs]
    for protocol in PROTOCOLS:
        figures = [run[protocol] for run in runs]
        medians = [
            statistics.median(values)
            for values in zip(
                *((f.requests_per_s, f.p50_ms, f.p99_ms) for f in figures), strict=True
            )
        ]
        ratio = f"{statistics.median(ratios):.2f}" if protocol == "grpc" else ""
        rate, p50, p99 = medians
        size = "x".join(map(str, shape[2:]))
        print(f"| {size} | {clients} | {protocol} | {rate:.1f} | {p50:.1f} | {p99:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
