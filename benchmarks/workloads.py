"""What the load generator sends: requests as wrk's Lua scripts, the same for every arm."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

HEADER: Final = "Inference-Header-Content-Length"
DETECTOR: Final = "detector"
TINY: Final = "tiny"


@dataclass(frozen=True)
class Workload:
    """Requests for `model` that take turns through `shapes`, from so many clients at once."""

    name: str
    model: str
    shapes: tuple[tuple[int, ...], ...]
    clients: int


ONE: Final = ((1, 3, 300, 300),)
TWO: Final = (*ONE, (1, 3, 400, 600))
WORKLOADS: Final = (
    *(Workload(f"one shape, {n} clients", DETECTOR, ONE, n) for n in (1, 4, 16, 64)),
    Workload("two shapes alternating, 16 clients", DETECTOR, TWO, 16),
    Workload("tiny model, 64 clients", TINY, ((1, 10),), 64),
)


def body(shape: Sequence[int], seed: int = 0) -> tuple[bytes, int]:
    """A binary KServe v2 request of random FP32 data, and the length of its JSON part."""
    entry = {
        "name": "data",
        "datatype": "FP32",
        "shape": shape,
        "parameters": {"binary_data_size": 4 * prod(shape)},
    }
    head = {"inputs": [entry], "parameters": {"binary_data_output": True}}
    data = np.random.default_rng(seed).random(shape, np.float32) * 255
    raw = json.dumps(head).encode()
    return raw + data.tobytes(), len(raw)


def lua_script(workload: Workload, directory: Path) -> Path:
    """A script for wrk that sends the workload's bodies in turn."""
    lines = ["bodies = {}", "lengths = {}"]
    for number, shape in enumerate(workload.shapes, start=1):
        content, length = body(shape)
        path = directory / f"body-{'x'.join(map(str, shape))}"
        path.write_bytes(content)
        lines.append(f'bodies[{number}] = io.open("{path}", "rb"):read("*a")')
        lines.append(f'lengths[{number}] = "{length}"')
    lines += [
        "turn = 0",
        "function request()",
        "  turn = turn % #bodies + 1",
        '  headers = {["Inference-Header-Content-Length"] = lengths[turn]}',
        '  return wrk.format("POST", nil, headers, bodies[turn])',
        "end",
        "function done(summary, latency, requests)",
        '  io.write(string.format("RESULT %d %d %d %d %d %d %d\\n", summary.requests,',
        "    summary.duration, latency:percentile(50), latency:percentile(95),",
        "    latency:percentile(99), summary.errors.status,",
        "    summary.errors.connect + summary.errors.read + summary.errors.timeout))",
        "end",
    ]
    script = directory / f"{workload.model}-{len(workload.shapes)}.lua"
    script.write_text("\n".join(lines) + "\n")
    return script
