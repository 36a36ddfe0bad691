"""How a shape that keeps coming gets a compilation of its own."""

import asyncio

import pytest

from deployments import timing
from deployments.inference import ShapeKey
from tests.model.cache.compiler import A, B, C, Compilation, Compiler, D, Refused, Shapes, key


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


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


async def test_a_compilation_that_does_not_pay_is_thrown_away_and_not_tried_again_soon(
    compiler: Compiler,
) -> None:
    judged: list[ShapeKey] = []

    def pays(key: ShapeKey) -> bool:
        judged.append(key)
        return key != A

    shapes = Shapes(compiler, dynamic=True, promote_after=1, pays=pays)
    for _ in range(5):
        for shape in (A, B):
            await shapes.get(shape)
            await shapes.settled()
    assert ([A, B], [A, B]) == (compiler.compiled, judged)
    assert [False, True] == [shape in shapes for shape in (A, B)]
    assert (2, 1) == (shapes.counters.compiles, shapes.counters.not_worth_it)
    assert shapes.any_shape is await shapes.get(A)
    shapes.clock.now += timing.DYNAMIC_SUFFICES_S
    await shapes.get(A)
    await shapes.settled()
    assert [A, B, A] == judged


async def test_a_compilation_on_trial_answers_nothing_until_it_is_kept(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1, pays=lambda key: False)
    shapes.judge = lambda: None  # type: ignore[method-assign]
    await shapes.get(A)
    await shapes.settled()
    candidate = shapes.on_trial(A)
    assert candidate is not None
    assert A == candidate.key
    assert shapes.any_shape is await shapes.get(A)
    assert 0 == len(shapes)
    shapes.keep(A, checked=True)
    assert candidate is await shapes.get(A)
    assert (None, None) == (shapes.on_trial(A), shapes.unchecked(A))
    assert [A] == compiler.compiled


async def test_compilations_that_somebody_waits_for_are_on_no_trial_but_unchecked(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1, pays=lambda key: False)
    release = compiler.hold(A)
    await shapes.get(A)
    await compiler.began(A)
    waiting = asyncio.create_task(shapes.get(A, static=True))
    await asyncio.sleep(0)
    release()
    assert A == (await waiting).key
    assert B == (await shapes.get(B, static=True)).key
    await shapes.settled()
    assert [True, True] == [shape in shapes for shape in (A, B)]
    assert 0 == shapes.counters.not_worth_it
    unchecked = shapes.unchecked(A)
    assert unchecked is not None
    shapes.keep(A, checked=True)
    assert shapes.unchecked(A) is None


async def test_what_is_asked_for_while_it_is_on_trial_is_compiled_once(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    shapes.judge = lambda: None  # type: ignore[method-assign]
    await shapes.get(A)
    await shapes.settled()
    assert A == (await shapes.get(A, static=True)).key
    assert [A] == compiler.compiled


async def test_what_is_on_trial_takes_a_place_and_goes_first(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=2, promote_after=1)
    await shapes.get(A, 10)
    await shapes.settled()
    shapes.judge = lambda: None  # type: ignore[method-assign]
    await shapes.get(B)
    await shapes.settled()
    assert shapes.on_trial(B) is not None
    await shapes.get(C, 4)
    await shapes.settled()
    assert shapes.on_trial(B) is None
    assert shapes.on_trial(C) is not None
    assert A in shapes
    assert 2 == compiler.most_alive


async def test_what_answers_wrongly_is_replaced_or_goes(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    for shape in (A, B):
        await shapes.get(shape, static=True)
    other = Compilation(())
    shapes.replace(A, other)
    assert other is await shapes.get(A)
    assert shapes.unchecked(A) is None
    shapes.discard(B, float("inf"))
    shapes.clock.now += 1e6
    assert shapes.any_shape is await shapes.get(B, 100)
    await shapes.settled()
    assert [A, B] == compiler.compiled


async def test_a_model_whose_dynamic_compilation_is_wrong_blocks(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True)
    assert shapes.answers_dynamically
    shapes.block()
    assert not shapes.answers_dynamically
    assert A == (await shapes.get(A)).key


async def test_any_number_of_rows_is_never_promoted(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    assert shapes.any_shape is await shapes.get(((-1, 4),), 100)
    await shapes.settled()
    assert [] == compiler.compiled


async def test_one_shape_a_minute_is_tried_until_a_promotion_pays(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=100, promote_after=1, one_paid=False)
    for shape in (A, B, C):
        await shapes.get(shape)
    await shapes.settled()
    assert [A] == compiler.compiled
    for shape in (B, C):  # A was worth it
        await shapes.get(shape)
    await shapes.settled()
    assert [A, B, C] == compiler.compiled


async def test_promotions_in_vain_halve_the_budget_until_one_pays(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=100, promote_after=1, compiles_per_minute=8)
    shapes.pays = lambda key: key == ((1, 0),)
    sizes = iter(range(100))

    async def compiled_in_a_minute() -> int:
        before = len(compiler.compiled)
        shapes.clock.now += 60.1
        for _ in range(20):
            await shapes.get(key(next(sizes)))
            await shapes.settled()
        return len(compiler.compiled) - before

    expected = [3, 1, 1]  # 8 after the one that pays, then 4, 2 and 1
    assert expected == [await compiled_in_a_minute() for _ in range(3)]


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


async def test_background_compilations_start_within_a_budget_per_minute(
    compiler: Compiler,
) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=100, promote_after=1, compiles_per_minute=3)
    for size in range(10):
        assert shapes.any_shape is await shapes.get(key(size))
    await shapes.settled()
    assert [key(0), key(1), key(2)] == compiler.compiled
    shapes.clock.now += 60.1
    for size in range(10):
        await shapes.get(key(size))
    await shapes.settled()
    assert 6 == len(compiler.compiled)


async def test_a_full_cache_is_left_to_those_who_are_asked_for_as_much(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=1, promote_after=1)
    await shapes.get(A)
    await shapes.settled()
    await shapes.get(A, 4)
    for _ in range(10):  # A was asked for 5 times
        await shapes.get(B)
    await shapes.settled()
    assert A in shapes
    await shapes.get(B)
    await shapes.settled()
    assert B in shapes
    assert 1 == shapes.counters.evictions


async def test_an_old_favourite_makes_room_in_time(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=1, promote_after=3)
    await shapes.get(A, 1000)
    await shapes.settled()
    await shapes.get(B, 3)
    await shapes.settled()
    assert A in shapes
    shapes.clock.now += 600.0
    await shapes.get(B, 3)
    await shapes.settled()
    assert B in shapes


async def test_a_burst_pushes_out_no_more_than_it_was_compared_with(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=2, promote_after=1)
    for shape, requests in ((A, 1), (B, 1000)):
        await shapes.get(shape, requests)
        await shapes.settled()
    async with shapes.own_lock:
        await shapes.get(C, 10)
        await shapes.get(D, 10)  # hotter than A, whose place C takes, but not than B
    await shapes.settled()
    await shapes.get(D)
    await shapes.settled()
    assert [False, True, True, False] == [shape in shapes for shape in (A, B, C, D)]


async def test_a_burst_into_free_places_pushes_nothing_out(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=2, promote_after=1)
    await shapes.get(A, 1000)
    await shapes.settled()
    release = compiler.hold(B)
    for shape in (B, C, D):
        await shapes.get(shape)
    await compiler.began(B)
    release()
    await shapes.settled()
    assert [A, B] == compiler.compiled
    assert A in shapes


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


async def test_known_shapes_stay_while_thousands_of_new_ones_come_once(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, bound=2, promote_after=3)
    for shape in (A, B):
        await shapes.get(shape, 10)
        await shapes.settled()
    for size in range(100, 5100):
        await shapes.get(key(size))
    await shapes.settled()
    assert [A, B] == compiler.compiled
    assert 5020 == shapes.counters.served_dynamic
    assert len(shapes.demand._interest) <= 4096


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


async def test_closing_ends_background_compilations_that_wait(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    async with shapes.own_lock:
        await shapes.get(A)
        await shapes.settled()
        assert 1 == shapes.statistics()["compiling"]
        await asyncio.wait_for(shapes.close(), 5)
    assert 0 == compiler.reshaped[A]
    assert 0 == shapes.statistics()["compiling"]
