"""The load generator: wrk with load.lua."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bodies import buffer, data_bytes, head
from benchmarks.workloads import Workload

SCRIPT: Final = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Outcome:
    """The counts and times of wrk: all answers, `refused` ones with an error status, and `broken`
    requests without an answer."""

    answers: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return (self.answers - self.refused) / self.seconds


def written(workload: Workload, directory: Path) -> Path:
    """The directory with the files for load.lua; writes it if it does not exist."""
    place = directory / workload.name
    if place.exists():
        return place
    place.mkdir()
    whole = buffer(workload.form, workload.shapes)
    (place / "buffer").write_bytes(whole)
    with (place / "heads").open("wb") as heads:
        for shape in workload.shapes:
            nbytes = data_bytes(workload.form, shape, whole)
            heads.write(b"%d %s\n" % (nbytes, head(workload.form, shape, nbytes)))
    (place / "order").write_text("".join(f"{index + 1}\n" for index in workload.order))
    return place


def start(
    url: str, requests: Path, clients: int, seconds: int, offset: int = 0, delay_ms: int = 0
) -> "subprocess.Popen[str]":
    """Starts wrk on the files of `written`, from request `offset` of the order."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), url, "--", str(requests), str(offset), str(delay_ms)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> Outcome:
    """Waits for the end of a started wrk, and reads its result."""
    output, _ = process.communicate()
    lines = [line for line in output.splitlines() if line.startswith("RESULT")]
    if process.returncode or len(lines) != 1:
        raise RuntimeError(f"wrk failed:\n{output}")
    answers, microseconds, *latencies, refused, broken = map(int, lines[0].split()[1:])
    p50, p95, p99, longest = (latency / 1e3 for latency in latencies)
    return Outcome(answers, microseconds / 1e6, p50, p95, p99, longest, refused, broken)


def run(url: str, requests: Path, clients: int, seconds: int, offset: int = 0) -> Outcome:
    """Runs wrk from start to end."""
    return finish(start(url, requests, clients, seconds, offset))
