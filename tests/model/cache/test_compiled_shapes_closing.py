"""What closing a cache waits for and what it cancels."""

import asyncio

from tests.model.cache.compiler import A, B, C, Compiler, Shapes


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


async def test_closing_ends_background_compilations_that_wait(compiler: Compiler) -> None:
    shapes = Shapes(compiler, dynamic=True, promote_after=1)
    async with shapes.own_lock:
        await shapes.get(A)
        await shapes.settled()
        assert 1 == shapes.statistics()["compiling"]
        await asyncio.wait_for(shapes.close(), 5)
    assert 0 == compiler.reshaped[A]
    assert 0 == shapes.statistics()["compiling"]
