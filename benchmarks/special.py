"""Two measurements of this project alone: new shapes' effect on a known one, and on memory."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks import wrk
from benchmarks.arms import SERVING, Target
from benchmarks.bodies import HEADER, body
from benchmarks.measuring import WARM_UP_S, Plan, Row
from benchmarks.shapes import Shape
from benchmarks.workloads import ANYSHAPE, NEW, ONE_SHAPE, Workload

KNOWN_SHAPE: Final = "known shape, 4 clients, while 20 new shapes a second arrive"
MEMORY: Final = "memory of the model replica after 1,000 shapes, after 100"

PAIRS: Final = 2
KNOWN: Final = replace(ONE_SHAPE, name=KNOWN_SHAPE, clients=4)
# Each connection sends about one request a second.
ARRIVING: Final = Workload(
    "new shapes arriving",
    ONE_SHAPE.model,
    NEW,
    20,
    (ANYSHAPE,),
    order=tuple(range(len(NEW))),
)
ARRIVING_DELAY_MS: Final = 1000
AROUND_S: Final = 2

FEW: Final = 100
MANY: Final = 1000
SENDERS: Final = 4


def special_rows(plan: Plan, chosen: str) -> Iterator[Row]:
    """The measurements with `chosen` in the name, each on its own server."""
    model = plan.models[ONE_SHAPE.model]
    if ANYSHAPE not in plan.arms:
        return
    if chosen in KNOWN_SHAPE:
        with SERVING[ANYSHAPE](model, KNOWN, plan.directory) as target:
            yield from _known_shape(target, plan.seconds, plan.directory)
    if chosen in MEMORY:
        with SERVING[ANYSHAPE](model, KNOWN, plan.directory) as target:
            yield _memory(target)


def _known_shape(target: Target, seconds: int, directory: Path) -> Iterator[Row]:
    """Measures pairs of phases without and with new shapes; no new shape is sent twice."""
    known, new = wrk.written(KNOWN, directory), wrk.written(ARRIVING, directory)
    wrk.run(target.url, known, KNOWN.clients, WARM_UP_S)
    sent = 0
    for _ in range(PAIRS):
        alone = wrk.run(target.url, known, KNOWN.clients, seconds)
        arriving = wrk.start(
            target.url, new, ARRIVING.clients, seconds + 2 * AROUND_S, sent, ARRIVING_DELAY_MS
        )
        time.sleep(AROUND_S)  # until they arrive at a steady rate
        beside = wrk.run(target.url, known, KNOWN.clients, seconds)
        arrived = wrk.finish(arriving)
        sent += arrived.answers + 2 * ARRIVING.clients  # includes requests without an answer
        row = {
            "measurement": KNOWN_SHAPE,
            "ratio": beside.p99_ms / alone.p99_ms,
            "p99_ms_without": alone.p99_ms,
            "p99_ms_with": beside.p99_ms,
            "requests_per_s_without": alone.per_second,
            "requests_per_s_with": beside.per_second,
            "new_shapes_per_s": arrived.per_second,
            "errors": sum(o.refused + o.broken for o in (alone, beside, arrived)),
        }
        print(f"{KNOWN_SHAPE}: p99 {alone.p99_ms:.1f} -> {beside.p99_ms:.1f} ms", flush=True)
        yield row


def _memory(target: Target) -> Row:
    """Measures memory after 100 and after 1,000 shapes, each sent once, from four clients."""
    (replica,) = target.replicas()
    process = psutil.Process(replica["pid"])
    send(target.url, NEW[:FEW])
    few = _resident(process)
    send(target.url, NEW[FEW:MANY])
    many = _resident(process)
    print(f"{MEMORY}: {few / 1e6:.0f} -> {many / 1e6:.0f} MB", flush=True)
    return {
        "measurement": MEMORY,
        "ratio": many / few,
        "mb_after_100": few / 1e6,
        "mb_after_1000": many / 1e6,
    }


def _resident(replica: psutil.Process) -> int:
    """The resident bytes of the replica and its child processes."""
    return sum(p.memory_info().rss for p in (replica, *replica.children()))


def send(url: str, shapes: tuple[Shape, ...]) -> None:
    """Sends each shape once, from a few clients. Raises if an answer has no status 200."""
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(SENDERS) as senders:

        def post(shape: Shape) -> None:
            content, length = body("FP32", shape)
            headers = {HEADER: str(length)}
            client.post(url, content=content, headers=headers).raise_for_status()

        list(senders.map(post, shapes))
