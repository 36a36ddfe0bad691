"""Which shapes keep their places when others are compiled in the background."""

from tests.model.cache.compiler import A, B, C, Compiler, D, Shapes, key


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
