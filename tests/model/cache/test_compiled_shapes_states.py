"""How a cache says it serves a shape, and what it tells of its compilations."""

import asyncio

import pytest

from deployments import timing
from deployments.inference import ShapeKey
from deployments.model.cache.shape_statistics import ShapeStatistics
from deployments.observability.shape_records import CacheBounds, Counts
from tests.model.cache.compiler import A, B, Clock, Compiler, Refused, Shapes, key


@pytest.fixture
def seen() -> ShapeStatistics:
    return ShapeStatistics(Clock())


async def counts(seen: ShapeStatistics, shapes: Shapes, of: ShapeKey) -> Counts:
    return (await seen.report(shapes.bounds, shapes.state)).shapes[of].counts


@pytest.mark.parametrize(
    ("dynamic", "blocking", "expected"),
    [
        (True, False, "dynamic"),
        (True, True, "not_compiled"),
        (False, True, "not_compiled"),
        (False, False, "not_compiled"),
    ],
)
async def test_a_shape_of_which_nothing_is_known(
    compiler: Compiler, dynamic: bool, blocking: bool, expected: str
) -> None:
    shapes = Shapes(compiler, dynamic=dynamic, blocking=blocking)
    assert (expected, "") == shapes.state(A)


@pytest.mark.parametrize("dynamic", [True, False])
async def test_a_shape_that_is_compiled_and_pushed_out(compiler: Compiler, dynamic: bool) -> None:
    shapes = Shapes(compiler, dynamic=dynamic, bound=1, promote_after=1)
    release = compiler.hold(A)
    getting = asyncio.create_task(shapes.get(A))
    await compiler.began(A)
    assert ("compiling", "") == shapes.state(A)
    release()
    await getting
    await shapes.settled()
    assert ("static", "") == shapes.state(A)
    await shapes.get(B, static=True)
    assert ("dynamic" if dynamic else "not_compiled", "") == shapes.state(A)


@pytest.mark.parametrize("dynamic", [True, False])
async def test_a_shape_that_fails_says_why_for_as_long_as_that_is_remembered(
    compiler: Compiler, dynamic: bool
) -> None:
    shapes = Shapes(compiler, dynamic=dynamic)
    compiler.refuses_to_compile.add(A)
    with pytest.raises(Refused):
        await shapes.get(A, static=True)
    shapes.clock.now += timing.REMEMBER_FAILURE_S - 1
    assert ("failed", f"no {A}") == shapes.state(A)
    shapes.clock.now += 1
    assert ("dynamic" if dynamic else "not_compiled", "") == shapes.state(A)


async def test_a_shape_with_which_the_compilation_for_all_is_as_fast(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1, pays=lambda *_: False)
    await shapes.get(A)
    await shapes.settled()
    shapes.clock.now += timing.DYNAMIC_SUFFICES_S - 1
    assert ("dynamic_suffices", "") == shapes.state(A)
    shapes.clock.now += 1
    assert ("dynamic", "") == shapes.state(A)


async def test_asking_for_states_needs_no_lock_and_compiles_nothing(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=7, promote_after=5)
    async with shapes.own_lock:
        assert [("not_compiled", "")] * 20 == [shapes.state(key(size)) for size in range(20)]
        await shapes.settled()
    assert CacheBounds(7, 5) == shapes.bounds
    assert not compiler.reshaped


async def test_compilations_and_evictions_are_told_with_their_shape(
    compiler: Compiler, seen: ShapeStatistics
) -> None:
    shapes = Shapes(compiler, bound=1, seen=seen)
    for shape in (A, B, A):
        await shapes.get(shape)
    a, b = await counts(seen, shapes, A), await counts(seen, shapes, B)
    assert (2, 1, 1) == (a.compiles, a.evictions, a.recompiled_soon)
    assert (1, 1, 0) == (b.compiles, b.evictions, b.recompiled_soon)
    assert 3 == shapes.counters.compiles


async def test_the_time_of_a_compilation_is_told(compiler: Compiler, seen: ShapeStatistics) -> None:
    shapes = Shapes(compiler, seen=seen)
    release = compiler.hold(A)
    getting = asyncio.create_task(shapes.get(A))
    await compiler.began(A)
    shapes.clock.now += 1.5
    release()
    await getting
    assert 1_500_000_000 == (await counts(seen, shapes, A)).compile_ns


async def test_failures_and_what_does_not_pay_are_told_with_their_shape(
    compiler: Compiler, seen: ShapeStatistics
) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1, pays=lambda *_: False, seen=seen)
    compiler.refuses_to_compile.add(B)
    for shape in (A, B):
        await shapes.get(shape)
        await shapes.settled()
    a, b = await counts(seen, shapes, A), await counts(seen, shapes, B)
    assert (1, 1, 0) == (a.compiles, a.not_worth_it, a.compile_failures)
    assert (0, 0, 1) == (b.compiles, b.not_worth_it, b.compile_failures)
