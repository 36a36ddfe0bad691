"""Every schedule of requests keeps the bound and answers each of them."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.inference import ShapeKey
from tests.effort import examples
from tests.model.cache.compiler import Compiler, D, Refused, Shapes, key

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
