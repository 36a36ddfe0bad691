"""How a shape that keeps coming gets a compilation of its own."""

import pytest

from tests.model.cache.compiler import A, B, Compiler, Refused, Shapes


async def test_a_new_shape_is_answered_at_once_by_the_dynamic_compilation(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, dynamic=True)
    async with shapes.own_lock:  # not even needed for a new shape
        assert shapes.any_shape is await shapes.get(A)
    assert [] == compiler.compiled
    assert 1 == shapes.counters.served_dynamic


@pytest.mark.parametrize("requests", [[1, 1, 1], [2, 1], [3]])
async def test_a_shape_is_compiled_after_so_many_requests_and_served_dynamic_meanwhile(
    compiler: Compiler, requests: list[int]
) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=3)
    release = compiler.hold(A)
    for count in requests:
        assert 0 == compiler.reshaped[A]
        assert shapes.any_shape is await shapes.get(A, count)
    await compiler.began(A)
    for _ in range(10):
        assert shapes.any_shape is await shapes.get(A)
    release()
    await shapes.settled()
    assert A == (await shapes.get(A)).key
    assert [A] == compiler.compiled
    assert 13 == shapes.counters.served_dynamic
    assert 1 == shapes.counters.hits


async def test_a_model_whose_dynamic_compilation_is_wrong_blocks(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True)
    assert shapes.answers_dynamically
    shapes.stop_dynamic()
    assert not shapes.answers_dynamically
    assert A == (await shapes.get(A)).key


async def test_any_number_of_rows_is_never_promoted(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    assert shapes.any_shape is await shapes.get(((-1, 4),), 100)
    await shapes.settled()
    assert [] == compiler.compiled


async def test_requests_are_half_forgotten_every_minute(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=3)
    for _ in range(5):  # 1, 1.5, 1.75...: never 3
        await shapes.get(A)
        shapes.clock.now += 60.0
    await shapes.settled()
    assert [] == compiler.compiled
    await shapes.get(A)
    await shapes.settled()
    assert [] == compiler.compiled
    shapes.clock.now += 0.1  # 1.97 requests are remembered, and a little less of them now
    await shapes.get(A)
    await shapes.settled()
    assert [A] == compiler.compiled


async def test_a_shape_that_fails_in_the_background_stays_dynamic_for_five_minutes(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    compiler.refuses_to_compile.add(A)
    for _ in range(5):
        assert shapes.any_shape is await shapes.get(A)
        await shapes.settled()
    assert 1 == compiler.reshaped[A]
    shapes.clock.now += 300.0
    assert shapes.any_shape is await shapes.get(A)
    await shapes.settled()
    assert 2 == compiler.reshaped[A]


async def test_a_static_compilation_can_be_asked_for(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True)
    assert A == (await shapes.get(A, static=True)).key
    assert A == (await shapes.get(A)).key
    compiler.refuses_to_reshape.add(B)
    with pytest.raises(Refused):
        await shapes.get(B, static=True)
    assert shapes.any_shape is await shapes.get(B)


async def test_a_blocking_model_waits_although_there_is_a_dynamic_compilation(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, dynamic=True, blocking=True)
    assert A == (await shapes.get(A)).key
    assert 0 == shapes.counters.served_dynamic
