"""Shapes that cannot be compiled."""

import asyncio
import gc
import traceback
import weakref
from contextlib import suppress

import pytest

from tests.model.cache.compiler import A, B, Compilation, Compiler, Refused, Shapes, key


async def test_all_who_wait_for_a_shape_that_fails_are_told(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_compile.add(A)
    answers = await asyncio.gather(*(shapes.get(A) for _ in range(5)), return_exceptions=True)
    assert [Refused] * 5 == [type(answer) for answer in answers]
    assert 1 == compiler.reshaped[A]
    assert 1 == shapes.counters.compile_failures
    assert 0 == len(shapes)


async def test_a_failure_is_remembered_for_five_minutes(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_reshape.add(A)
    for wait_s in (0.0, 0.0, 299.0):
        shapes.clock.now += wait_s
        with pytest.raises(Refused, match="no"):
            await shapes.get(A)
    assert 1 == compiler.reshaped[A]
    compiler.refuses_to_reshape.clear()
    shapes.clock.now += 1.0
    assert A == (await shapes.get(A)).key
    assert A in shapes


async def test_a_remembered_failure_keeps_nothing_of_the_requests_that_met_it(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_reshape.add(A)
    bodies = []

    async def request() -> None:
        body = Compilation(A)
        bodies.append(weakref.ref(body))
        with suppress(Refused):
            await shapes.get(A)

    for _ in range(3):
        await request()
    await shapes.settled()
    gc.collect()
    assert [None] * 3 == [body() for body in bodies]


async def test_a_failure_that_is_told_often_does_not_grow(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_reshape.add(A)
    lengths = []
    for _ in range(5):
        with pytest.raises(Refused) as failure:
            await shapes.get(A)
        lengths.append(len(traceback.extract_tb(failure.value.__traceback__)))
    assert 1 == len(set(lengths[1:]))


async def test_a_shape_that_cannot_be_reshaped_to_pushes_nothing_out(compiler: Compiler) -> None:
    shapes = Shapes(compiler, bound=1)
    await shapes.get(A)
    for size in range(10, 20):
        compiler.refuses_to_reshape.add(key(size))
        with pytest.raises(Refused):
            await shapes.get(key(size))
    assert A in shapes
    assert 0 == shapes.counters.evictions


async def test_another_shape_compiles_after_one_that_failed(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    compiler.refuses_to_compile.add(A)
    bad, good = await asyncio.gather(shapes.get(A), shapes.get(B), return_exceptions=True)
    assert isinstance(bad, Refused)
    assert isinstance(good, Compilation)
