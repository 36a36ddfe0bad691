"""`make bench-choosing`: measures `reshape`, `max_compiled_shapes`, ranges and layouts.

It calls the loaded version directly, without a server, with one request at a time: the differences
are OpenVINO's. Each line compares two ways to do the same, in turns. Its ratio is the median over
the rounds of the ratio within a round.
"""

import argparse
import asyncio
import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import psutil

from benchmarks.models import default_detector
from deployments.model.execution.requests import BatchMember
from deployments.model.versions.loader import Loader, LocalDirectories
from deployments.model.versions.serving import VersionServer
from deployments.settings import ModelSettings
from deployments.tensors import Tensor

SIZES: Final = ((300, 300), (400, 600), (600, 800))
NEW_SIZES: Final = 24
CALLS: Final = 20
Way = Callable[[], Awaitable[object]]


class Line(NamedTuple):
    what: str
    one: str
    other: str
    ratio: str


class Bench:
    """Loads versions of the detector with various settings."""

    def __init__(self, detector: Path, stack: AsyncExitStack, rounds: int) -> None:
        self._detector = detector
        self._stack = stack
        self._rounds = rounds

    async def version(self, cache: Path | None = None, **settings: Any) -> VersionServer:
        places = LocalDirectories(self._detector.parent, cache, 10**10)
        loader = Loader(places, asyncio.Lock(), lambda line: None)
        wanted = ModelSettings(name="detector", source=self._detector.name, **settings)
        version = await loader.load(1, loader.find(wanted)[1], wanted)
        assert isinstance(version, VersionServer)
        self._stack.push_async_callback(version.close)
        return version

    async def compared(
        self, what: str, unit: str, names: tuple[str, str], one: Way, other: Way
    ) -> Line:
        """Measures the times of `one` and `other`, without the first of each."""
        pairs = [(await _ms(one), await _ms(other)) for _ in range(self._rounds + 1)][1:]
        firsts, seconds = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(first / second for first, second in pairs)
        shown = f"{names[0]} {firsts:.1f} {unit}", f"{names[1]} {seconds:.1f} {unit}"
        return Line(what, *shown, f"{ratio:.2f}")


async def _ms(work: Way) -> float:
    started = time.perf_counter()
    await work()
    return 1e3 * (time.perf_counter() - started)


async def ask(version: VersionServer, *shape: int, dtype: Any = np.float32) -> None:
    data = np.zeros(shape, dtype)
    datatype = {np.float32: "FP32", np.uint8: "UINT8"}[dtype]
    (spec,) = version.info.inputs
    tensors = version.info.arrange([Tensor(spec.name, datatype, shape, data)])
    key, rows = version.info.key_and_rows(tensors, 100)
    (answer,) = await version.run(
        key, [BatchMember(tensors, rows, (), time.monotonic() + 60, 60.0)]
    )
    if isinstance(answer, Exception):
        raise answer


async def again(version: VersionServer, *shape: int, dtype: Any = np.float32) -> None:
    for _ in range(CALLS):
        await ask(version, *shape, dtype=dtype)


async def static_and_dynamic(bench: Bench) -> list[Line]:
    """Compares a static compilation, the dynamic one, and a dynamic one within ranges."""
    never, shape = 10**6, "(-1,3,200:800,200:800)"
    dynamic = await bench.version(promote_after=never)
    ranges = await bench.version(shape=shape, promote_after=never)
    static = await bench.version(reshape="blocking")
    lines = []
    for height, width in SIZES:
        asked = (1, 3, height, width)
        lines.append(
            await bench.compared(
                f"{height}x{width}, {CALLS} requests",
                "ms",
                ("dynamic", "static"),
                lambda asked=asked: again(dynamic, *asked),  # type: ignore[misc]
                lambda asked=asked: again(static, *asked),  # type: ignore[misc]
            )
        )
    lines.append(
        await bench.compared(
            f"{SIZES[1][0]}x{SIZES[1][1]}, {CALLS} requests",
            "ms",
            ("dynamic within 200:800", "dynamic without bounds"),
            lambda: again(ranges, 1, 3, *SIZES[1]),
            lambda: again(dynamic, 1, 3, *SIZES[1]),
        )
    )
    return lines


async def first_request(bench: Bench) -> list[Line]:
    """Measures the first request of a new shape, with `blocking` and `background`."""
    blocking, background = await bench.version(reshape="blocking"), await bench.version()
    widths = iter(range(310, 2000, 10))

    async def new(version: VersionServer) -> None:
        await ask(version, 1, 3, 300, next(widths))

    return [
        await bench.compared(
            "first request of a new shape",
            "ms",
            ("`blocking`", "`background`"),
            lambda: new(blocking),
            lambda: new(background),
        )
    ]


async def taking_turns(bench: Bench) -> list[Line]:
    """Compares two alternating shapes with room for one compilation and for two."""
    one = await bench.version(reshape="blocking", max_compiled_shapes=1)
    two = await bench.version(reshape="blocking", max_compiled_shapes=2)

    async def alternate(version: VersionServer) -> None:
        for _ in range(4):
            for height, width in SIZES[:2]:
                await ask(version, 1, 3, height, width)

    return [
        await bench.compared(
            "two shapes in turn, 8 requests, `blocking`",
            "ms",
            ("`max_compiled_shapes` 1", "2"),
            lambda: alternate(one),
            lambda: alternate(two),
        )
    ]


async def layouts(bench: Bench) -> list[Line]:
    """Compares pixels converted in the model's graph with tensors that need no conversion."""
    height, width = SIZES[1]
    plain = await bench.version(reshape="blocking")
    pixels = await bench.version(reshape="blocking", layout="NHWC:NCHW", precision="uint8")
    lines = [
        await bench.compared(
            f"{height}x{width}, {CALLS} requests",
            "ms",
            ("u8 NHWC converted in the graph", "f32 NCHW from the client"),
            lambda: again(pixels, 1, height, width, 3, dtype=np.uint8),
            lambda: again(plain, 1, 3, height, width),
        )
    ]
    size = 3 * height * width / 1e6
    lines.append(
        Line("body of that request", f"u8 {size:.2f} MB", f"f32 {4 * size:.2f} MB", "0.25")
    )
    return lines


async def cache_dir(bench: Bench) -> list[Line]:
    """Compares loading 8 warm-up shapes with and without the compilations of an earlier start."""
    shapes = [f"(1,3,300,{width})" for width in range(300, 380, 10)]
    with tempfile.TemporaryDirectory() as directory:
        line = await bench.compared(
            "load with 8 shapes in `warm_up`",
            "ms",
            ("`cache_dir` filled", "none"),
            lambda: bench.version(Path(directory), warm_up=shapes),
            lambda: bench.version(warm_up=shapes),
        )
        taken = await asyncio.to_thread(_bytes_below, Path(directory))
    return [line, Line("disk for that", f"{taken / 1e6:.0f} MB", "0 MB", "")]


async def memory(bench: Bench) -> list[Line]:
    """Measures the memory of one more shape, in a static and in the dynamic compilation."""
    static = await bench.version(reshape="blocking", max_compiled_shapes=NEW_SIZES)
    dynamic = await bench.version(promote_after=10**6)
    added = []
    for version in (static, dynamic):
        await ask(version, 1, 3, 300, 300)
        before = _resident_mb()
        for step in range(1, NEW_SIZES):
            await ask(version, 1, 3, 300, 300 + 4 * step)
        added.append(_resident_mb() - before)
    each = [f"{mb / (NEW_SIZES - 1):.1f} MB" for mb in added]
    ratio = f"{added[0] / max(added[1], 0.1):.1f}"
    return [Line("memory of one shape more", f"static {each[0]}", f"dynamic {each[1]}", ratio)]


def _bytes_below(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _resident_mb() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return float(psutil.Process().memory_info().rss) / 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choosing", description=__doc__)
    parser.add_argument("--detector", type=Path, default=default_detector())
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print("| what | one way | the other | ratio |\n|---|---|---|---|")
    for measure in (
        memory,
        static_and_dynamic,
        first_request,
        taking_turns,
        layouts,
        cache_dir,
    ):
        async with AsyncExitStack() as stack:
            for line in await measure(Bench(arguments.detector, stack, arguments.rounds)):
                print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
