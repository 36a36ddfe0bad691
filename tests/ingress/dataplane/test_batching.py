import asyncio
import contextvars
import gc
import weakref
from collections.abc import Sequence

import pytest

from deployments.ingress.dataplane.batching import Batcher
from tests.ingress.dataplane.batches import Model, Refused, batcher, is_idle, quiet

# When batches leave -----------------------------------------------------------------------------


async def test_a_single_item_leaves_at_once_and_gets_its_answer() -> None:
    model = Model()
    result = batcher(model.send).submit("a", 1, "x")
    call = await model.arrived.get()
    assert ("a", ["x"]) == (call.key, call.items)
    call.answer()
    assert "x done" == await result


async def test_what_arrives_in_one_turn_of_the_loop_leaves_together() -> None:
    model = Model()
    batches = batcher(model.send)

    async def caller(item: str) -> str:
        return await batches.submit("a", 1, item)

    callers = [asyncio.create_task(caller(item)) for item in "xyz"]
    call = await model.arrived.get()
    assert ["x", "y", "z"] == call.items
    call.answer()
    assert ["x done", "y done", "z done"] == await asyncio.gather(*callers)


async def test_under_load_a_batch_grows_until_another_comes_back() -> None:
    model = Model()
    batches = batcher(model.send, in_flight=2)
    for item in "abcdef":  # each in a turn of its own
        batches.submit("key", 1, item)
        await quiet()
    assert [["a"], ["b"]] == model.sent
    model.calls[1].answer()
    await quiet()
    assert [["a"], ["b"], ["c", "d", "e", "f"]] == model.sent


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([3, 3, 2, 1], [3, 1]),
        ([8, 1, 7, 1], [1, 2, 1]),
        ([9, 1], [1, 1]),
        ([1, 9, 1], [1, 1, 1]),
        ([0, 0, 8, 0, 1], [4, 1]),
        ([1] * 20, [8, 8, 4]),
    ],
)
async def test_a_batch_takes_rows_up_to_the_bound_and_an_oversized_item_alone(
    rows: list[int], expected: list[int]
) -> None:
    model = Model()
    batches = batcher(model.send, max_rows=8, in_flight=20)
    for index, count in enumerate(rows):
        batches.submit("key", count, f"{index}")
    await quiet()
    assert expected == [len(items) for items in model.sent]
    assert [f"{index}" for index in range(len(rows))] == [
        item for items in model.sent for item in items
    ]


async def test_no_more_batches_of_a_key_are_in_flight_than_allowed() -> None:
    model = Model()
    batches = batcher(model.send, max_rows=1, in_flight=2)
    results = [batches.submit("key", 1, item) for item in "abcde"]
    for number in range(5):
        await quiet()
        assert min(number + 2, 5) == len(model.calls)
        model.calls[number].answer()
    assert [f"{item} done" for item in "abcde"] == await asyncio.gather(*results)


async def test_a_key_that_does_not_come_back_holds_no_other_key() -> None:
    model = Model()
    batches = batcher(model.send)
    stuck = [batches.submit("stuck", 1, item) for item in "ab"]
    await quiet()
    result = batches.submit("free", 1, "c")
    await quiet()
    model.calls[-1].answer()
    assert "c done" == await result
    assert not any(result.done() for result in stuck)


# Answers ----------------------------------------------------------------------------------------


async def test_an_error_among_the_answers_is_raised_for_its_item_alone() -> None:
    async def send(key: str, items: Sequence[str]) -> Sequence[str | Exception]:
        return ["one", Refused("two"), "three"]

    batches = batcher(send)
    results = [batches.submit("key", 1, item) for item in "abc"]
    answers = await asyncio.gather(*results, return_exceptions=True)
    assert ["one", "three"] == [answers[0], answers[2]]
    assert isinstance(answers[1], Refused)


@pytest.mark.parametrize(
    "outcome", [Refused("all"), ["one"], ["one", "two", "three"], [], None], ids=str
)
async def test_a_call_that_fails_reaches_every_member_and_the_queue_goes_on(
    outcome: "Exception | list[str | Exception] | None",
) -> None:
    model = Model()
    batches = batcher(model.send)
    results = [batches.submit("key", 1, item) for item in "ab"]
    call = await model.arrived.get()
    waiting = batches.submit("key", 1, "c")
    if isinstance(outcome, Exception):
        call.answers.set_exception(outcome)
    else:
        call.answers.set_result(outcome)  # type: ignore[arg-type]
    answers = await asyncio.gather(*results, return_exceptions=True)
    assert [True, True] == [isinstance(answer, Exception) for answer in answers]
    (await model.arrived.get()).answer()
    assert "c done" == await waiting
    await quiet()
    assert is_idle(batches)


async def test_a_call_that_is_cancelled_underneath_leaves_no_request_waiting() -> None:
    model = Model()
    batches = batcher(model.send)
    results = [batches.submit("key", 1, item) for item in "ab"]
    call = await model.arrived.get()
    waiting = batches.submit("key", 1, "c")
    call.answers.cancel()
    await asyncio.wait(results)
    assert [True, True] == [result.cancelled() for result in results]
    (await model.arrived.get()).answer()
    assert "c done" == await waiting
    await quiet()
    assert is_idle(batches)


# Callers that leave -----------------------------------------------------------------------------


async def test_a_caller_that_leaves_the_queue_is_not_sent() -> None:
    model = Model()
    batches = batcher(model.send)
    batches.submit("key", 1, "first")
    await quiet()
    results = [batches.submit("key", 1, item) for item in "abc"]
    results[1].cancel()
    model.calls[0].answer()
    await quiet()
    assert [["first"], ["a", "c"]] == model.sent


async def test_a_caller_that_leaves_in_the_turn_it_came_is_not_sent() -> None:
    model = Model()
    batches = batcher(model.send)
    batches.submit("key", 1, "a").cancel()
    await quiet()
    assert [] == model.calls
    assert is_idle(batches)


async def test_a_caller_that_leaves_a_batch_in_flight_does_not_affect_its_other_requests() -> None:
    model = Model()
    batches = batcher(model.send)

    async def caller(item: str) -> str:
        return await batches.submit("key", 1, item)

    callers = [asyncio.create_task(caller(item)) for item in "abc"]
    call = await model.arrived.get()
    callers[0].cancel()
    await quiet()
    assert not call.answers.cancelled()
    call.answer()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert ["b done", "c done"] == answers[1:]


async def test_a_batch_whose_callers_have_all_left_still_makes_room_for_the_next() -> None:
    model = Model()
    batches = batcher(model.send)
    batches.submit("key", 1, "a")
    call = await model.arrived.get()
    for result in [batches.submit("key", 1, item) for item in "bc"]:
        result.cancel()
    last = batches.submit("key", 1, "d")
    call.answers.set_exception(Refused())
    (await model.arrived.get()).answer()
    assert "d done" == await last


class Load:
    """An object whose deletion the test can observe."""


async def test_a_queued_request_is_dropped_at_once_when_its_caller_leaves() -> None:
    never: asyncio.Future[list[int | Exception]] = asyncio.get_running_loop().create_future()

    async def send(key: str, items: Sequence[Load]) -> Sequence[int | Exception]:
        return await never

    batches: Batcher[str, Load, int] = Batcher(send, 8)
    batches.submit("key", 1, Load(), 1)
    await quiet()
    load = Load()
    seen = weakref.ref(load)
    result = batches.submit("key", 1, load)
    del load
    result.cancel()
    await quiet()
    gc.collect()
    assert seen() is None
    never.set_result([1])
    await batches.close()


# What stays behind ------------------------------------------------------------------------------


async def test_the_number_of_waiting_items_is_exact_at_any_time() -> None:
    model = Model()
    batches = batcher(model.send)
    assert 0 == batches.waiting
    results = [batches.submit(key, 1, key) for key in "abca"]
    assert 4 == batches.waiting  # before the loop has turned
    await quiet()
    assert 4 == batches.waiting  # under way counts too
    results[0].cancel()
    model.calls[1].answer()
    await results[1]
    assert 2 == batches.waiting
    model.calls[2].answers.set_exception(Refused())
    with pytest.raises(Refused):
        await results[2]
    assert 1 == batches.waiting
    model.calls[0].answer()
    await results[3]
    assert 0 == batches.waiting


async def test_an_idle_batcher_remembers_no_key() -> None:
    model = Model()
    batches = batcher(model.send)
    for key in "abc":
        results = [batches.submit(key, 1, item) for item in "xyz"]
        results[1].cancel()
        (await model.arrived.get()).answer()
        await asyncio.gather(*results, return_exceptions=True)
    await quiet()
    assert is_idle(batches)


caller_name: contextvars.ContextVar[str] = contextvars.ContextVar("caller_name", default="nobody")


async def test_batches_do_not_run_in_the_context_of_a_caller() -> None:
    seen = []

    async def send(key: str, items: Sequence[str]) -> Sequence[str | Exception]:
        seen.append(caller_name.get())
        caller_name.set("a batch")
        return list(items)

    batches = batcher(send, max_rows=1)

    async def caller(name: str) -> None:
        caller_name.set(name)
        await asyncio.gather(*(batches.submit("key", 1, item) for item in "abc"))
        assert name == caller_name.get()

    await asyncio.gather(caller("one"), caller("two"))
    assert ["nobody"] * 6 == seen


async def test_closing_waits_for_batches_in_flight_and_queued_ones() -> None:
    model = Model()
    batches = batcher(model.send)
    results = [batches.submit("key", 9, item) for item in "ab"]
    await quiet()
    closing = asyncio.create_task(batches.close())
    for number in range(2):
        await quiet()
        assert not closing.done()
        model.calls[number].answer()
    await closing
    assert ["a done", "b done"] == [result.result() for result in results]
