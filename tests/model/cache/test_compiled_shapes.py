"""Requests for one shape share one compilation."""

import asyncio

import pytest

from tests.model.cache.compiler import A, B, Compiler, Refused, Shapes


async def test_a_hundred_requests_for_a_new_shape_cost_one_compilation(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    release = compiler.hold(A)
    asking = [asyncio.create_task(shapes.get(A)) for _ in range(100)]
    await compiler.began(A)
    release()
    first, *others = await asyncio.gather(*asking)
    assert all(other is first for other in others)
    assert [A] == compiler.compiled
    assert 1 == shapes.counters.compiles


async def test_who_asks_while_a_compilation_waits_for_the_lock_shares_it(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler)
    async with shapes.own_lock:
        early = asyncio.create_task(shapes.get(A))
        await shapes.settled()
        late = asyncio.create_task(shapes.get(A))
        await shapes.settled()
        assert [] == compiler.compiled
    assert await early is await late
    assert [A] == compiler.compiled


async def test_known_shapes_are_served_while_another_is_compiled(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    known = await shapes.get(A)
    release = compiler.hold(B)
    waiting = asyncio.create_task(shapes.get(B))
    await compiler.began(B)
    assert shapes.own_lock.locked()
    assert known is await shapes.get(A)
    assert 1 == shapes.statistics()["compiling"]
    release()
    assert B == (await waiting).key


async def test_how_long_a_compilation_takes_is_told_while_it_does(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    assert 0.0 == shapes.compiling_s
    release = compiler.hold(A)
    async with shapes.own_lock:
        asking = asyncio.create_task(shapes.get(A))
        await asyncio.sleep(0)
        shapes.clock.now += 5
        assert 0.0 == shapes.compiling_s  # it waits for its turn
    await compiler.began(A)
    shapes.clock.now += 7
    assert 7.0 == shapes.compiling_s
    release()
    await asking
    assert 0.0 == shapes.compiling_s


async def test_after_a_compilation_that_failed_none_is_under_way(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_compile = {A}
    with pytest.raises(Refused):
        await shapes.get(A)
    assert 0.0 == shapes.compiling_s


async def test_caches_that_share_a_lock_compile_one_after_the_other(compiler: Compiler) -> None:
    lock = asyncio.Lock()
    one, other = Shapes(compiler, lock=lock), Shapes(compiler, lock=lock)
    release = compiler.hold(A)
    first = asyncio.create_task(one.get(A))
    await compiler.began(A)
    second = asyncio.create_task(other.get(B))
    await other.settled()
    assert [] == compiler.compiled
    release()
    await asyncio.gather(first, second)
    assert [A, B] == compiler.compiled
    assert 1 == compiler.most_at_once


async def test_a_waiter_who_leaves_does_not_end_the_compilation(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    release = compiler.hold(A)
    leaving, staying = (asyncio.create_task(shapes.get(A)) for _ in range(2))
    await compiler.began(A)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    release()
    assert A == (await staying).key
    assert [A] == compiler.compiled


async def test_a_compilation_that_everybody_left_is_kept_for_the_next(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=1)
    release = compiler.hold(A)
    leaving = asyncio.create_task(shapes.get(A))
    await compiler.began(A)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    release()
    await shapes.settled()
    assert A in shapes
    assert B == (await shapes.get(B)).key  # nobody uses A: its place is free
