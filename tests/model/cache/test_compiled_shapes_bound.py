"""How many compilations are kept, and which one goes."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from deployments.inference import ShapeKey
from tests.model.cache.compiler import A, AtOnce, B, C, Compiler, Refused, Shapes, key


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_the_least_recently_used_shape_is_pushed_out(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=2)
    for shape in (A, B, A, C):
        await shapes.get(shape)
    assert [True, False, True] == [shape in shapes for shape in (A, B, C)]
    assert 1 == shapes.counters.evictions
    await shapes.get(B)
    assert [A, B, C, B] == compiler.compiled


async def test_a_shape_in_use_is_waited_for_before_its_place_is_taken(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=2)
    async with AsyncExitStack() as using_a, AsyncExitStack() as using_b:
        await shapes.held(using_a, A)
        await shapes.held(using_b, B)
        waiting = asyncio.create_task(shapes.get(C))
        await shapes.settled()
        assert [A, B] == compiler.compiled
        await using_b.aclose()
        await shapes.settled()
        assert [A, B] == compiler.compiled  # A was used before B
        await using_a.aclose()
        assert C == (await waiting).key
    assert 2 == compiler.most_alive


async def test_a_shape_in_use_by_several_is_waited_for_until_the_last_has_left(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, bound=1)
    async with AsyncExitStack() as first, AsyncExitStack() as last:
        await shapes.held(first, A)
        await shapes.held(last, A)
        waiting = asyncio.create_task(shapes.get(B))
        await first.aclose()
        await shapes.settled()
        assert [A] == compiler.compiled
        await last.aclose()
        await waiting
    assert 1 == compiler.most_alive


async def test_who_waited_has_a_turn_before_the_place_is_taken_again(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=1, threads=AtOnce())
    let_go = asyncio.Event()

    async def use(shape: ShapeKey) -> None:
        async with shapes.use(shape):
            await let_go.wait()

    users = [asyncio.create_task(use(shape)) for shape in (A, B)]
    await shapes.settled()
    assert [A] == compiler.compiled
    let_go.set()
    await asyncio.gather(*users)
    assert [A, B] == compiler.compiled
    assert 1 == compiler.most_alive


@pytest.mark.usefixtures("no_garbage_collection")
async def test_what_is_pushed_out_is_freed_at_once(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=1)
    gone = weakref.ref(await shapes.get(A))
    await shapes.get(B)
    await shapes.settled()
    assert gone() is None


async def test_what_is_remembered_of_thousands_of_shapes_is_bounded(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=2)
    for size in range(4200):
        if size >= 100:
            compiler.refuses_to_reshape.add(key(size))
        try:
            await shapes.get(key(size))
        except Refused:
            assert size >= 100
    await shapes.get(key(1), static=True)
    for remembered in (shapes._failed._values, shapes.demand._interest):
        assert len(remembered) <= 4096
    assert 2 == len(shapes)
    assert 2 == compiler.most_alive
    with pytest.raises(Refused):
        await shapes.get(key(4199))
    assert 1 == compiler.reshaped[key(4199)]
