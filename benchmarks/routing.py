"""`make bench-routing`: our request router beside Serve's two, in simulated clusters.

Power of two choices is Serve's default; consistent hashing is its router for sessions, with the
shape as the session. Simulated time, so the figures are the same on every machine.
"""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from benchmarks.simulated import Cluster, Load, Outcome
from deployments.ingress.shape_router import ShapeRouter

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
    for what, load in LOADS.items():
        print(f"\n{load.shapes} shapes; {what}:\n")
        print("| replicas | router | requests | compiles | hit rate | p50 | p99 | imbalance |")
        print("|---|---|---|---|---|---|---|---|")
        for size in sizes:
            for router in ROUTERS:
                print(_line(size, router, await simulated(router, load, size)), flush=True)


def _line(size: int, router: str, outcome: Outcome) -> str:
    return (
        f"| {size} | {router} | {outcome.requests:,} | {outcome.compiles:,} "
        f"| {outcome.hit_rate:.1%} | {1e3 * outcome.p50_s:.0f} ms | {1e3 * outcome.p99_s:,.0f} ms "
        f"| {outcome.imbalance:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-routing", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 64, 512])
    logging.disable(logging.INFO)  # a line for each router that is made
    asyncio.run(print_tables(parser.parse_args().sizes))


if __name__ == "__main__":
    main()
