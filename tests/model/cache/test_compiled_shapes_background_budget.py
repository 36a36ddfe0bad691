"""How many compilations start in the background in a minute."""

from tests.model.cache.compiler import A, B, C, Compiler, Shapes, key


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
