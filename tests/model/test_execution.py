import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.model.execution import Execution, Slots, to_the_end

PATIENCE_S = 10


async def settled() -> None:
    """When everything has happened that can happen by itself."""
    for _ in range(10):
        await asyncio.sleep(0)


class Client:
    """Takes a slot and keeps it until told to let go."""

    def __init__(self, slots: Slots, deadline: float) -> None:
        self.deadline = deadline
        self.has_slot = False
        self.let_go = asyncio.Event()
        self.task = asyncio.create_task(self._take(slots))

    async def _take(self, slots: Slots) -> None:
        async with slots.slot(self.deadline):
            self.has_slot = True
            await self.let_go.wait()
        self.has_slot = False

    async def leave(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


# Slots ------------------------------------------------------------------------------------------


async def test_free_slots_are_taken_without_waiting() -> None:
    slots = Slots(2)
    clients = [Client(slots, 1.0) for _ in range(3)]
    await settled()
    assert [True, True, False] == [client.has_slot for client in clients]
    assert 1 == slots.waiting


async def test_a_slot_goes_to_the_earliest_deadline_and_among_equals_to_the_first() -> None:
    slots = Slots(1)
    holder = Client(slots, 0.0)
    await settled()
    waiting = [Client(slots, deadline) for deadline in (3.0, 1.0, 2.0, 1.0)]
    await settled()
    for place in (1, 3, 2, 0):
        holder.let_go.set()
        await settled()
        assert [waiting[place]] == [client for client in waiting if client.has_slot]
        holder = waiting[place]


async def test_who_leaves_while_waiting_is_passed_over() -> None:
    slots = Slots(1)
    holder, leaving, next_one = (Client(slots, deadline) for deadline in (0.0, 1.0, 2.0))
    await settled()
    await leaving.leave()
    assert 1 == slots.waiting
    holder.let_go.set()
    await settled()
    assert next_one.has_slot


async def test_who_leaves_with_a_slot_passes_it_on() -> None:
    slots = Slots(1)
    holder, next_one = Client(slots, 0.0), Client(slots, 1.0)
    await settled()
    await holder.leave()
    await settled()
    assert next_one.has_slot


async def test_a_slot_given_to_somebody_who_leaves_in_that_moment_is_passed_on() -> None:
    slots = Slots(1)
    async with slots.slot(0.0):
        leaving, next_one = (Client(slots, deadline) for deadline in (1.0, 2.0))
        await settled()
    leaving.task.cancel()  # the slot is its own since the line above, which it does not know yet
    with pytest.raises(asyncio.CancelledError):
        await leaving.task
    await settled()
    assert not leaving.has_slot
    assert next_one.has_slot


async def test_what_fails_in_a_slot_gives_it_back() -> None:
    slots = Slots(1)
    with pytest.raises(ZeroDivisionError):
        async with slots.slot(0.0):
            _ = 1 // 0
    async with slots.slot(0.0):
        assert 0 == slots.waiting


steps = st.lists(
    st.tuples(st.sampled_from(["come", "finish", "leave", "wait"]), st.integers(0, 9)), max_size=60
)


@given(steps, st.integers(1, 4))
@settings(deadline=None)
def test_every_schedule_keeps_the_count_and_loses_no_slot(
    schedule: list[tuple[str, int]], count: int
) -> None:
    async def play() -> None:
        slots = Slots(count)
        clients: list[Client] = []
        for action, number in schedule:
            if action == "come":
                clients.append(Client(slots, float(number)))
            elif action == "finish" and clients:
                clients[number % len(clients)].let_go.set()
            elif action == "leave" and clients:
                clients[number % len(clients)].task.cancel()
            else:
                await settled()
                holding = sum(client.has_slot and not client.task.done() for client in clients)
                open_tasks = sum(not client.task.done() for client in clients)
                assert min(count, open_tasks) == holding
                assert open_tasks - holding == slots.waiting
        for client in clients:
            client.let_go.set()
        await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
        again = [Client(slots, 0.0) for _ in range(count + 1)]
        await settled()
        assert count == sum(client.has_slot for client in again)
        for client in again:
            client.let_go.set()
        await asyncio.gather(*(client.task for client in again))

    asyncio.run(play())


# Execution --------------------------------------------------------------------------------------


class Work:
    """Work in a thread that goes on until told to end."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.began.set()
        assert self.end.wait(PATIENCE_S)
        self.ended = True
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.wait, PATIENCE_S)


@pytest.fixture
async def execution() -> AsyncIterator[Execution]:
    execution = Execution(2)
    yield execution
    execution.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


async def test_work_gets_its_arguments_and_gives_its_result(execution: Execution) -> None:
    assert 8 == await execution.run(0.0, pow, 2, exp=3)


async def test_what_work_raises_is_raised_and_the_slot_is_free_again(execution: Execution) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await execution.run(0.0, divmod, 1, 0)
    assert 2 == await execution.run(0.0, max, 1, 2)


async def test_as_much_work_runs_at_once_as_there_are_slots(execution: Execution) -> None:
    works = [Work() for _ in range(3)]
    running = [asyncio.create_task(execution.run(1.0, work)) for work in works]
    for work in works[:2]:
        await work.has_begun()
    await settled()
    assert 1 == execution.slots.waiting
    assert not works[2].began.is_set()
    works[0].end.set()
    await works[2].has_begun()
    for work in works:
        work.end.set()
    assert ["done"] * 3 == await asyncio.gather(*running)


async def test_of_the_work_that_waits_the_earliest_deadline_begins_first() -> None:
    execution, first, order = Execution(1), Work(), list[float]()
    running = asyncio.create_task(execution.run(0.0, first))
    await first.has_begun()
    waiting = [
        asyncio.create_task(execution.run(deadline, order.append, deadline))
        for deadline in (5.0, 3.0, 4.0)
    ]
    await settled()
    first.end.set()
    await asyncio.gather(running, *waiting)
    assert [3.0, 4.0, 5.0] == order
    execution.close()


async def test_work_that_waits_never_begins_when_its_caller_leaves() -> None:
    execution, first, second = Execution(1), Work(), Work()
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
    execution, work, following = Execution(1), Work(), Work()
    running = asyncio.create_task(execution.run(0.0, work))
    await work.has_begun()
    next_one = asyncio.create_task(execution.run(1.0, following))
    for _ in range(times):
        running.cancel()
        await settled()
    assert not running.done()
    assert not following.began.is_set()  # the slot is still taken
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
    assert 7 == await to_the_end(work)


async def test_closing_ends_the_threads() -> None:
    execution = Execution(2)
    await execution.run(0.0, int)
    execution.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await execution.run(0.0, int)
    with pytest.raises(RuntimeError, match="after shutdown"):
        await execution.run(0.0, int)  # and not for a lost slot
