"""`make bench-routing`: compares our request router with Serve's two, simulated and real.

Power of two choices is Serve's default. Consistent hashing is its router for sessions, here with
the shape as the session. The figures in simulated time are the same on every machine. `--real`
starts servers with a few replicas of the detector; 16 clients send sizes by Zipf's law.
"""

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from benchmarks.arms import this_project
from benchmarks.measuring import Row, load
from benchmarks.models import build_models, default_detector
from benchmarks.simulated import Cluster, Load, Outcome
from benchmarks.workloads import WORKLOADS
from deployments.ingress.routing.router import ShapeRouter

ROUTERS: Final[dict[str, type[Any]]] = {
    "power of two choices": PowerOfTwoChoicesRequestRouter,
    "consistent hashing": ConsistentHashRouter,
    "by shape": ShapeRouter,
}
LOADS: Final = {
    "a request waits 60 ms for its shape's compilation; inferences take 20 % of the cores": Load(),
    "a new shape costs 4 ms, as on a dynamic compilation; inferences take 70 % of the cores": Load(
        busy=0.7, compile_s=0.004
    ),
}
_MOST_INGRESSES: Final = 16


async def simulated(router: str, load: Load, size: int) -> Outcome:
    """A cluster of `size` replicas, with one ingress for every four of them."""
    ingresses = max(1, min(_MOST_INGRESSES, size // 4))
    return await Cluster(load, ROUTERS[router], size, ingresses).run()


async def print_tables(sizes: Sequence[int]) -> None:
    for what, arriving in LOADS.items():
        print(f"\n{arriving.shapes} shapes; {what}:\n")
        print("| replicas | router | requests | compiles | hit rate | p50 | p99 | imbalance |")
        print("|---|---|---|---|---|---|---|---|")
        for size in sizes:
            for router in ROUTERS:
                print(_line(size, router, await simulated(router, arriving, size)), flush=True)


def _line(size: int, router: str, outcome: Outcome) -> str:
    return (
        f"| {size} | {router} | {outcome.requests:,} | {outcome.compiles:,} "
        f"| {outcome.hit_rate:.1%} | {1e3 * outcome.p50_s:.0f} ms | {1e3 * outcome.p99_s:,.0f} ms "
        f"| {outcome.imbalance:.2f} |"
    )


# Real servers -------------------------------------------------------------------------------------

REAL_ROUTERS: Final[dict[str, str | None]] = {
    "power of two choices": "benchmarks.routers:PowerOfTwo",
    "consistent hashing": "benchmarks.routers:ByHash",
    "by shape": None,
}
ZIPF: Final = next(workload for workload in WORKLOADS if workload.name.startswith("Zipf"))


def really(router: str, size: int, model: Path, seconds: int, directory: Path) -> Row:
    """Measures on a server of its own, where a new shape waits for its compilation."""
    deployment: dict[str, Any] = {"num_replicas": size}
    if (imported := REAL_ROUTERS[router]) is not None:
        deployment["request_router_config"] = {"request_router_class": imported}
    with this_project(model, ZIPF, directory, deployment=deployment, reshape="blocking") as target:
        target.wait_for_replicas(size)
        row = load(target, ZIPF, seconds, directory)
        return {**row, "cached": [replica["compiled_shapes"] for replica in target.replicas()]}


def print_real(sizes: Sequence[int], seconds: int, repetitions: int) -> None:
    rows: dict[tuple[int, str], list[Row]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = build_models(directory, default_detector())[ZIPF.model]
        for _ in range(repetitions):
            for size in sizes:
                for router in REAL_ROUTERS:
                    row = really(router, size, model, seconds, directory)
                    print(size, router, row, file=sys.stderr, flush=True)
                    rows.setdefault((size, router), []).append(row)
    print(f"\n{ZIPF.name}, really started servers:\n")
    print("| replicas | router | req/s | compiles per 1,000 | p50 | p99 | errors |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for (size, router), same in rows.items():
        print(_real_line(size, router, same, seconds))


def _real_line(size: int, router: str, rows: Sequence[Row], seconds: int) -> str:
    """Medians of the repetitions."""
    compiles = median(1e3 * r["compiles"] / (r["requests_per_s"] * seconds) for r in rows)
    rate, p50, p99 = (median(r[n] for r in rows) for n in ("requests_per_s", "p50_ms", "p99_ms"))
    errors = sum(row["errors"] for row in rows)
    return (
        f"| {size} | {router} | {rate:.0f} | {compiles:.0f} | {p50:.0f} ms | {p99:,.0f} ms "
        f"| {errors:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-routing", description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="replicas (2 8 64 512, with --real 2 3)"
    )
    parser.add_argument("--real", action="store_true", help="start real servers")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if not options.real:
        logging.disable(logging.INFO)  # each new router logs a line
        asyncio.run(print_tables(options.sizes or [2, 8, 64, 512]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    print_real(options.sizes or [2, 3], options.seconds, options.repetitions)


if __name__ == "__main__":
    main()
