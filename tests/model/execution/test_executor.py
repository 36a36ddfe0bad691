import asyncio
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.model.execution.executor import Execution, Kind, shielded
from tests.effort import examples
from tests.loops import settled
from tests.model.execution.working import PATIENCE_S, Work


async def test_the_result_of_work_is_given(execution: Execution) -> None:
    assert 8 == await execution.run(0.0, lambda: 8)


async def test_what_work_raises_is_raised_and_the_thread_is_free_again(
    execution: Execution,
) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await execution.run(0.0, lambda: 1 // 0)
    assert 2 == await execution.run(0.0, lambda: 2)


async def test_as_much_work_runs_at_once_as_there_are_slots(execution: Execution) -> None:
    works = [Work() for _ in range(3)]
    running = [asyncio.create_task(execution.run(1.0, work)) for work in works]
    for work in works[:2]:
        await work.has_begun()
    await settled()
    assert 1 == execution.waiting
    assert not works[2].began.is_set()
    works[0].end.set()
    await works[2].has_begun()
    for work in works:
        work.end.set()
    assert ["done"] * 3 == await asyncio.gather(*running)


async def test_of_the_work_that_waits_the_earliest_deadline_begins_first() -> None:
    execution, first, order = Execution(1, 1), Work(), list[float]()
    running = asyncio.create_task(execution.run(0.0, first))
    await first.has_begun()
    waiting = [
        asyncio.create_task(execution.run(deadline, partial(order.append, deadline)))
        for deadline in (5.0, 3.0, 4.0)
    ]
    await settled()
    first.end.set()
    await asyncio.gather(running, *waiting)
    assert [3.0, 4.0, 5.0] == order
    execution.close()


async def test_work_that_builds_fills_the_streams_and_leaves_one_to_other_work() -> None:
    execution, works, other = Execution(4, 2), [Work() for _ in range(4)], [Work(), Work()]
    running = [asyncio.create_task(execution.run(0.0, w, Kind.BUILDS)) for w in works]
    await works[0].has_begun()
    await works[1].has_begun()
    running += [asyncio.create_task(execution.run(9.0, work)) for work in other]
    await other[0].has_begun()
    await other[1].has_begun()
    assert not works[2].began.is_set(), "both streams build"
    works[0].end.set()
    await asyncio.wait(running[:1])
    await settled()
    assert not works[2].began.is_set(), "other work has one of the streams"
    other[0].end.set()
    await asyncio.wait(running[4:5])
    await settled()
    assert not works[2].began.is_set()
    other[1].end.set()
    await works[2].has_begun()
    assert not works[3].began.is_set()
    for work in works:
        work.end.set()
    assert ["done"] * 6 == await asyncio.gather(*running)
    execution.close()


async def test_work_that_builds_begins_beside_other_work_where_there_is_one_stream() -> None:
    execution, first, second = Execution(2, 1), Work(), Work()
    running = [asyncio.create_task(execution.run(0.0, first))]
    await first.has_begun()
    running.append(asyncio.create_task(execution.run(9.0, second, Kind.BUILDS)))
    await second.has_begun()
    first.end.set()
    second.end.set()
    assert ["done"] * 2 == await asyncio.gather(*running)
    execution.close()


async def test_work_that_builds_begins_when_the_work_it_waited_for_is_cancelled() -> None:
    execution, first, other, second, left = Execution(2, 2), Work(), Work(), Work(), Work()
    busy = [asyncio.create_task(execution.run(0.0, w)) for w in (first, other)]
    await first.has_begun()
    await other.has_begun()
    waiting = asyncio.create_task(execution.run(1.0, left))
    building = [asyncio.create_task(execution.run(2.0, w, Kind.BUILDS)) for w in (second, int)]
    await settled()
    waiting.cancel()
    for work in (first, other, second, left):  # it may have begun before it is cancelled
        work.end.set()
    await asyncio.wait_for(asyncio.gather(*busy, *building), PATIENCE_S)
    execution.close()


async def test_work_that_compares_has_its_turn_with_no_more_beside_it_than_the_streams_take() -> (
    None
):
    execution, works, compares = Execution(4, 2), [Work() for _ in range(6)], Work()
    running = [asyncio.create_task(execution.run(0.0, work)) for work in works[:3]]
    for work in works[:3]:
        await work.has_begun()
    running.append(asyncio.create_task(execution.run(1.0, compares, Kind.COMPARES)))
    running += [asyncio.create_task(execution.run(2.0, work)) for work in works[3:]]
    await settled()
    assert not works[3].began.is_set(), "a slot is free, but it is the other's turn"
    for work in works[:2]:
        work.end.set()
    await asyncio.wait(running[:2])
    await compares.has_begun()
    await settled()
    assert not works[3].began.is_set(), "both streams are busy"
    works[2].end.set()
    await works[3].has_begun()
    assert not works[4].began.is_set()
    compares.end.set()
    await works[4].has_begun()
    await works[5].has_begun()
    for work in works[3:]:
        work.end.set()
    assert ["done"] * 7 == await asyncio.gather(*running)
    execution.close()


async def test_two_that_compare_do_not_run_together() -> None:
    execution, first, second, other = Execution(6, 3), Work(), Work(), Work()
    running = [asyncio.create_task(execution.run(0.0, w, Kind.COMPARES)) for w in (first, second)]
    await first.has_begun()
    running.append(asyncio.create_task(execution.run(1.0, other)))
    await other.has_begun()
    assert not second.began.is_set()
    first.end.set()
    await second.has_begun()
    second.end.set()
    other.end.set()
    assert ["done"] * 3 == await asyncio.gather(*running)
    execution.close()


async def test_work_that_waits_never_begins_when_its_caller_leaves() -> None:
    execution, first, second = Execution(1, 1), Work(), Work()
    running = asyncio.create_task(execution.run(0.0, first))
    await first.has_begun()
    waiting = asyncio.create_task(execution.run(1.0, second))
    await settled()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.end.set()
    assert "done" == await running
    assert not second.began.is_set()
    execution.close()


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_work_that_has_begun_is_waited_for_however_often_its_caller_is_cancelled(
    times: int,
) -> None:
    execution, work, following = Execution(1, 1), Work(), Work()
    running = asyncio.create_task(execution.run(0.0, work))
    await work.has_begun()
    next_one = asyncio.create_task(execution.run(1.0, following))
    for _ in range(times):
        running.cancel()
        await settled()
    assert not running.done()
    assert not following.began.is_set()  # the thread is still taken
    work.end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.ended
    following.end.set()
    assert "done" == await next_one
    execution.close()


async def test_what_work_raises_after_its_caller_left_is_nobody_s_to_see(
    execution: Execution,
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    work = Work()

    def fail() -> None:
        work()
        raise ValueError

    running = asyncio.create_task(execution.run(0.0, fail))
    await work.has_begun()
    running.cancel()
    await settled()
    work.end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    del running
    await settled()
    assert [] == complaints


async def test_work_to_the_end_gives_its_result(threads: ThreadPoolExecutor) -> None:
    work = asyncio.get_running_loop().run_in_executor(threads, lambda: 7)
    assert 7 == await shielded(work)


async def test_closing_ends_the_threads() -> None:
    execution = Execution(2, 2)
    await execution.run(0.0, int)
    execution.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="after shutdown"):
            await execution.run(0.0, int)
    assert 0 == execution.waiting


async def test_closing_cancels_what_waits_and_ends_after_what_has_begun() -> None:
    execution, first, second = Execution(1, 1), Work(), Work()
    running = asyncio.create_task(execution.run(0.0, first))
    await first.has_begun()
    waiting = asyncio.create_task(execution.run(1.0, second))
    await settled()
    closing = asyncio.create_task(asyncio.to_thread(execution.close))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not closing.done()
    first.end.set()
    await closing
    assert "done" == await running
    assert not second.began.is_set()


async def test_work_is_forgotten_when_it_is_done() -> None:
    execution, load = Execution(1, 1), Load()
    gone = weakref.ref(load)
    await execution.run(0.0, partial(id, load))
    del load
    await execution.run(0.0, int)  # a thread may still be on its way out of its last work
    assert gone() is None
    execution.close()


class Load:
    """Something that a weak reference can point at."""


@settings(deadline=None, max_examples=examples(30))
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.floats(0, 9),
            st.sampled_from(Kind),
            st.sampled_from(["run", "cancel", "fail", "late"]),
        ),
        max_size=20,
    ),
)
def test_every_schedule_ends_and_leaves_nothing_waiting(
    count: int, streams: int, works: list[tuple[float, Kind, str]]
) -> None:
    async def play() -> None:
        execution = Execution(count, streams)
        callers = []
        for deadline, kind, fate in works:
            work = partial(divmod, 7, 0 if fate == "fail" else 2)
            callers.append(asyncio.create_task(execution.run(deadline, work, kind)))
            if fate == "late":
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            if fate == "cancel":
                callers[-1].cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        expected = {"run": tuple, "fail": ZeroDivisionError, "cancel": asyncio.CancelledError}
        expected["late"] = tuple
        for (*_, fate), answer in zip(works, answers, strict=True):
            assert isinstance(answer, expected[fate])
        assert 0 == execution.waiting
        execution.close()

    asyncio.run(play())
