import asyncio
import gc
import traceback
import weakref
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.inference import ShapeKey
from tests.effort import examples
from tests.model.compiler import (
    A,
    AtOnce,
    B,
    C,
    Compilation,
    Compiler,
    D,
    Refused,
    Shapes,
    key,
)


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# One compilation for all who ask ----------------------------------------------------------------


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


# The bound --------------------------------------------------------------------------------------


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


# Failures ---------------------------------------------------------------------------------------


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


# The end ----------------------------------------------------------------------------------------


async def test_closing_waits_for_the_compilation_under_way_and_keeps_the_lock_meanwhile(
    compiler: Compiler,
) -> None:
    lock = asyncio.Lock()
    shapes, other = Shapes(compiler, lock=lock), Shapes(compiler, lock=lock)
    release = compiler.hold(A)
    under_way, queued = (asyncio.create_task(shapes.get(shape)) for shape in (A, B))
    await compiler.began(A)
    closing = asyncio.create_task(shapes.close())
    another = asyncio.create_task(other.get(C))
    await other.settled()
    assert not closing.done()
    assert 0 == compiler.reshaped[C]
    release()
    await closing
    assert C == (await another).key
    assert 1 == compiler.most_at_once
    answers = await asyncio.gather(under_way, queued, return_exceptions=True)
    assert [asyncio.CancelledError] * 2 == [type(answer) for answer in answers]
    assert 0 == compiler.reshaped[B]
    assert 0 == shapes.statistics()["compiling"]


async def test_closing_an_idle_cache_is_nothing(compiler: Compiler) -> None:
    shapes = Shapes(compiler)
    await shapes.get(A)
    await shapes.close()
    assert [A] == compiler.compiled


# Whatever happens -------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["ask", "let go", "leave"]), st.integers(0, 5)), max_size=40
)


@given(steps, st.integers(1, 3))
@settings(max_examples=examples(100), deadline=None)
def test_every_schedule_keeps_the_bound_and_answers_everybody(
    schedule: list[tuple[str, int]], bound: int
) -> None:
    compiler = Compiler()
    compiler.refuses_to_reshape.add(D)

    async def use(shapes: Shapes, shape: ShapeKey, let_go: asyncio.Event) -> str:
        try:
            async with shapes.use(shape) as compilation:
                await let_go.wait()
                return "right" if compilation.key == shape else "wrong"
        except Refused:
            return "refused"
        except asyncio.CancelledError:
            return "left"

    async def play() -> None:
        shapes = Shapes(compiler, bound=bound)
        users: list[tuple[ShapeKey, asyncio.Event, asyncio.Task[str]]] = []
        for action, number in schedule:
            if action == "ask":
                let_go = asyncio.Event()
                task = asyncio.create_task(use(shapes, key(number), let_go))
                users.append((key(number), let_go, task))
            elif users and action == "let go":
                users[number % len(users)][1].set()
            elif users:
                users[number % len(users)][2].cancel()
            await asyncio.sleep(0)
            if number == 0:
                await shapes.settled()
            assert len(shapes) <= bound
        for _, let_go, _ in users:
            let_go.set()
        for shape, _, task in users:
            assert await task in ("refused" if shape == D else "right", "left")
        shapes.threads.shutdown()

    asyncio.run(play())
    assert compiler.most_alive <= bound
    assert compiler.most_at_once <= 1
