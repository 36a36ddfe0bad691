import pytest

from benchmarks.routing import LOADS, simulated
from benchmarks.simulated import Outcome

WAITING, DYNAMIC = LOADS.values()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("load", [WAITING, DYNAMIC], ids=["waiting", "dynamic"])
async def test_by_shape_compiles_five_times_less_at_no_worse_a_tail(load: object) -> None:
    """64 replicas and 500 shapes, as `make bench-routing` has them."""
    chosen = next(known for known in LOADS.values() if known is load)
    usual = await simulated("power of two choices", chosen, 64)
    ours = await simulated("by shape", chosen, 64)
    assert usual.requests == ours.requests == 64_000
    assert 5 * ours.compiles <= usual.compiles
    assert ours.p99_s <= 1.1 * usual.p99_s
    assert ours.hit_rate > usual.hit_rate


async def test_a_simulation_is_the_same_every_time() -> None:
    outcomes: set[Outcome] = set()
    for _ in range(2):
        outcomes.add(await simulated("by shape", WAITING, 8))
    assert 1 == len(outcomes)
