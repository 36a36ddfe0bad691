"""Times without the wait for a stream, on a device that runs a number of inferences at once."""

import heapq
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.model.openvino.stream_times import StreamTimes, Turn

PATIENCE_S = 10


class Clock:
    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_inference_that_has_a_stream_at_once_takes_as_long_as_it_takes(clock: Clock) -> None:
    times = StreamTimes(2, clock)
    first = times.begin()
    clock.now += 5
    second = times.begin()
    clock.now += 10
    assert (15, 10) == (times.end(first), times.end(second))


def test_an_inference_that_waits_takes_from_when_another_has_ended(clock: Clock) -> None:
    times = StreamTimes(1, clock)
    turns = [times.begin() for _ in range(3)]
    taken = []
    for turn, ns in zip(turns, (7, 20, 4), strict=True):
        clock.now += ns
        taken.append(times.end(turn))
    assert [7, 20, 4] == taken
    last = times.begin()
    clock.now += 3
    assert 3 == times.end(last), "the stream was not given back"


def test_one_that_overtakes_counts_from_when_it_came_and_takes_no_stream(clock: Clock) -> None:
    times = StreamTimes(1, clock)
    running, waiting, overtaking = (times.begin() for _ in range(3))
    clock.now += 6
    assert 6 == times.end(overtaking)
    clock.now += 1
    assert 7 == times.end(running)
    clock.now += 2
    assert 2 == times.end(waiting)
    assert 1 == times._idle


arrivals = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), max_size=30)


@given(arrivals, st.integers(1, 4))
def test_every_inference_takes_its_own_time_whatever_waits(
    drawn: list[tuple[int, int]], streams: int
) -> None:
    """On a device that begins inferences in the order of their arrival."""
    clock, free_at = Clock(), [0] * streams
    times = StreamTimes(streams, clock)
    arrived, events, turns = 0, list[tuple[int, int, int]](), dict[int, Turn]()
    for number, (pause, ns) in enumerate(drawn):
        arrived += pause
        ends = max(arrived, heapq.heappop(free_at)) + ns
        heapq.heappush(free_at, ends)
        # Of what happens at one moment, what ends comes first: its stream is free then.
        events += [(arrived, 1, number), (ends, 0, number)]
    for clock.now, begins, number in sorted(events):
        if begins:
            turns[number] = times.begin()
        else:
            assert drawn[number][1] == times.end(turns[number])
    assert streams == times._idle


def test_threads_do_not_lose_a_stream() -> None:
    times, together = StreamTimes(2), threading.Barrier(4)

    def infer(_: int) -> int:
        together.wait(PATIENCE_S)
        return sum(times.end(times.begin()) < 0 for _ in range(500))

    with ThreadPoolExecutor(4) as pool:
        assert [0] * 4 == list(pool.map(infer, range(4)))
    assert (2, 0) == (times._idle, len(times._waiting))
