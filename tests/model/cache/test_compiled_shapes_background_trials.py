"""How a compilation made in the background is judged before it answers."""

import asyncio

from deployments import timing
from deployments.inference import ShapeKey
from tests.model.cache.compiler import A, B, C, Compilation, Compiler, Shapes


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
