"""Submits, cancels, answers and fails in any order."""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from tests.ingress.dataplane.batches import Call, Model, Refused, batcher, is_idle, quiet

MAX_ROWS = 8


class Schedule:
    """A batcher with its callers and its model, run step by step."""

    def __init__(self, in_flight: int) -> None:
        self.model = Model()
        self.in_flight = in_flight
        self.batches = batcher(self.model.send, MAX_ROWS, in_flight)
        self.results: dict[str, asyncio.Future[str]] = {}
        self.rows: dict[str, int] = {}
        self.failed: set[str] = set()

    async def submit(self, key: str, rows: int) -> None:
        item = f"{key}{len(self.results)}"
        self.rows[item] = rows
        self.results[item] = self.batches.submit(key, rows, item)

    async def cancel(self, index: int) -> None:
        if self.results:
            list(self.results.values())[index % len(self.results)].cancel()

    async def answer(self, index: int) -> None:
        if pending := self.pending():
            pending[index % len(pending)].answer()

    async def fail(self, index: int) -> None:
        if pending := self.pending():
            call = pending[index % len(pending)]
            call.answers.set_exception(Refused(*call.items))
            self.failed.update(call.items)

    async def turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    def pending(self) -> list[Call]:
        return [call for call in self.model.calls if not call.answers.done()]

    async def finish(self) -> None:
        await quiet()
        while pending := self.pending():
            pending[0].answer()
            await quiet()

    def check_what_is_under_way(self) -> None:
        for key in "ab":
            assert self.in_flight >= sum(call.key == key for call in self.pending())

    def check_what_was_sent(self) -> None:
        for call in self.model.calls:
            assert {call.key} == {item[0] for item in call.items}
            assert len(call.items) == 1 or MAX_ROWS >= sum(map(self.rows.__getitem__, call.items))
        for key in "ab":
            sent = [item for call in self.model.calls if call.key == key for item in call.items]
            assert sorted(set(sent), key=lambda item: int(item[1:])) == sent

    def check_answers(self) -> None:
        for item, result in self.results.items():
            if result.cancelled():
                continue
            if (error := result.exception()) is None:
                assert f"{item} done" == result.result()
            else:
                assert item in error.args
                assert item in self.failed


Step = Callable[[Schedule], Awaitable[None]]
numbers = st.integers(0, 30)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        lambda key, rows: lambda run: run.submit(key, rows),
        st.sampled_from("ab"),
        st.integers(0, 9),
    ),
    numbers.map(lambda index: lambda run: run.cancel(index)),
    numbers.map(lambda index: lambda run: run.answer(index)),
    numbers.map(lambda index: lambda run: run.fail(index)),
    st.integers(1, 4).map(lambda times: lambda run: run.turn(times)),
)


@given(st.lists(steps, max_size=40), st.integers(1, 3))
def test_whatever_happens_every_item_is_answered_once_and_with_its_own_answer(
    schedule: list[Step], in_flight: int
) -> None:
    async def play() -> None:
        run = Schedule(in_flight)
        for step in schedule:
            await step(run)
            run.check_what_is_under_way()
        await run.finish()
        assert all(result.done() for result in run.results.values())
        run.check_what_was_sent()
        run.check_answers()
        assert is_idle(run.batches)

    asyncio.run(play())
