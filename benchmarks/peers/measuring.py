"""Measures an arm: warms up all shapes, checks its answers, and loads it with wrk."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import numpy as np
import openvino as ov
import psutil

from benchmarks.compiling import precision
from benchmarks.peers.environments import ROOT
from benchmarks.peers.wire import Body, Tensor, Wire

Row: TypeAlias = dict[str, Any]
Shape: TypeAlias = tuple[int, ...]
WARM_UP_S: Final = 2
START_S: Final = 120.0
TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Workload:
    """Requests that alternate between `shapes`, from `clients` clients at once."""

    name: str
    shapes: tuple[Shape, ...]
    clients: int


ONE: Final = ((1, 3, 300, 300),)
TWO: Final = (*ONE, (1, 3, 400, 600))
WORKLOADS: Final = (
    Workload("one shape, 1 client", ONE, 1),
    Workload("one shape, 16 clients", ONE, 16),
    Workload("two shapes alternating, 16 clients", TWO, 16),
)


def tensor(shape: Shape) -> Tensor:
    return np.random.default_rng(0).random(shape, np.float32) * 255


def expected(model: Path, shapes: tuple[Shape, ...] = TWO) -> dict[Shape, list[Tensor]]:
    """OpenVINO's own answers for every shape: of a static compilation and of a dynamic one.

    The kernels of the two may round differently.
    """
    answers: dict[Shape, list[Tensor]] = {}
    for shape in shapes:
        answers[shape] = []
        for compiled in (shape, (*shape[:2], *(-1 for _ in shape[2:]))):
            read = ov.Core().read_model(model)
            read.reshape(list(compiled))
            answer = ov.Core().compile_model(read, "CPU", precision())([tensor(shape)])[0]
            answers[shape].append(answer.ravel())
    return answers


def make_ready(url: str, wire: Wire, answers: dict[Shape, list[Tensor]]) -> None:
    """Waits for the first answer. Raises RuntimeError if an answer differs from OpenVINO's."""
    for shape, accepted in answers.items():
        got = wire.decode(_answer(url, wire.encode(tensor(shape))))
        if not any(_close(got, answer) for answer in accepted):
            raise RuntimeError(f"{url} gives a wrong answer for shape {shape}")


def _close(got: Tensor, answer: Tensor) -> bool:
    return got.shape == answer.shape and np.allclose(got, answer, atol=TOLERANCE)


def _answer(url: str, body: Body) -> httpx.Response:
    deadline, said = time.monotonic() + START_S, "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.post(url, content=body.content, headers=body.headers, timeout=30)
            if reply.status_code == 200:
                return reply
            said = f"{reply.status_code} {reply.text[:200]}"
        time.sleep(0.2)  # polls, because a grandchild process may own the port
    raise RuntimeError(f"{url} is not ready after {START_S:.0f} s: {said}")


def load(url: str, wire: Wire, workload: Workload, seconds: int, directory: Path) -> Row:
    """Measures a running arm with wrk and the operating system."""
    script = _script([wire.encode(tensor(shape)) for shape in workload.shapes], directory)
    _wrk(url, script, workload.clients, WARM_UP_S)
    before = _cpu_seconds()
    row = _wrk(url, script, workload.clients, seconds)
    cpu = 1e3 * (_cpu_seconds() - before) / max(1, row.pop("answers"))
    return {**row, "cpu_ms_per_request": cpu, "resident_mb": _resident_mb()}


def bare(model: Path, workload: Workload, seconds: int) -> Row:
    """Measures OpenVINO in a process of its own, without a server: the limit."""
    command = [sys.executable, "-m", "benchmarks.bare", "--model", str(model)]
    command += ["--shapes", json.dumps(workload.shapes)]
    ran = subprocess.run(
        command, cwd=ROOT, input=f"{seconds}\n", capture_output=True, text=True, check=True
    )
    row: Row = json.loads(ran.stdout)
    return row


def _script(bodies: list[Body], directory: Path) -> Path:
    """Writes a Lua script for wrk that sends the bodies in turn, and makes each request once."""
    lines = ["kept, turn = {}, 0", "function init()"]
    for number, body in enumerate(bodies, start=1):
        path = directory / f"body-{number}"
        path.write_bytes(body.content)
        fields = ", ".join(f"[{json.dumps(k)}] = {json.dumps(v)}" for k, v in body.headers.items())
        content = f'io.open({json.dumps(str(path))}, "rb"):read("*a")'
        lines.append(f'  kept[{number}] = wrk.format("POST", nil, {{{fields}}}, {content})')
    lines += [
        "end",
        "function request()",
        "  turn = turn % #kept + 1",
        "  return kept[turn]",
        "end",
        "function done(summary, latency)",
        '  io.write(string.format("RESULT %d %d %d %d %d %d %d\\n", summary.requests,',
        "    summary.duration, latency:percentile(50), latency:percentile(95),",
        "    latency:percentile(99), summary.errors.status,",
        "    summary.errors.connect + summary.errors.read + summary.errors.timeout))",
        "end",
    ]
    script = directory / "requests.lua"
    script.write_text("\n".join(lines) + "\n")
    return script


def _wrk(url: str, script: Path, clients: int, seconds: int) -> Row:
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s"]
    ran = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    )
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    answers, microseconds, p50, p95, p99, refused, broken = map(int, line.split()[1:])
    return {
        "answers": answers,
        "requests_per_s": (answers - refused) / (microseconds / 1e6),
        "p50_ms": p50 / 1e3,
        "p95_ms": p95 / 1e3,
        "p99_ms": p99 / 1e3,
        "errors": refused + broken,
    }


def _started() -> list[psutil.Process]:
    """All descendants of this process, which are the arm's unless wrk runs."""
    return psutil.Process().children(recursive=True)


def _cpu_seconds() -> float:
    total = 0.0
    for process in _started():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _resident_mb() -> float:
    total = 0.0
    for process in _started():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss / 1e6
    return total
