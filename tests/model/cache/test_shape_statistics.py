"""What is counted for each shape, and that it stays right and small whatever comes."""

import asyncio
import sys
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference import ShapeKey
from deployments.model.cache.shape_statistics import _SAMPLES, KEPT_SHAPES, ShapeStatistics
from deployments.observability.shape_records import (
    RECOMPILED_SOON_MINUTES,
    CacheBounds,
    Counts,
    LastCompile,
    ShapeRecord,
    ShapesReport,
    State,
)
from tests.model.cache.compiler import A, B, C, Clock, key

BOUNDS = CacheBounds(16, 8)
SOON_S = 60 * RECOMPILED_SOON_MINUTES


def told(seen: ShapeStatistics) -> ShapesReport:
    return asyncio.run(seen.report(BOUNDS, lambda _: ("dynamic", "")))


def record(seen: ShapeStatistics, of: ShapeKey = A) -> ShapeRecord:
    return told(seen).shapes[of]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen(clock: Clock) -> ShapeStatistics:
    return ShapeStatistics(clock)


# One shape --------------------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_request(seen: ShapeStatistics) -> None:
    assert ShapesReport(1000.0, BOUNDS) == told(seen)


def test_requests_rows_and_batches_are_counted_with_the_first_and_the_last_time(
    seen: ShapeStatistics, clock: Clock
) -> None:
    for requests, rows in ((1, 1), (3, 7)):
        clock.now += 5.5
        seen.arrived(A, requests, rows)
    seen.arrived(B, 2, 2)
    expected = Counts(requests=4, rows=8, batches=2, first_seen=1005.5, last_seen=1011.0)
    assert expected == record(seen).counts
    assert 2 == record(seen, B).counts.requests


def test_a_clock_that_is_set_back_leaves_the_first_time_before_the_last(
    seen: ShapeStatistics, clock: Clock
) -> None:
    for now in (1000.0, 2000.0, 500.0):
        clock.now = now
        seen.arrived(A, 1, 1)
    assert (500.0, 2000.0) == (record(seen).counts.first_seen, record(seen).counts.last_seen)


def test_answers_are_counted_by_the_compilation_that_gave_them(seen: ShapeStatistics) -> None:
    seen.arrived(A, 20, 30)
    seen.answered_static(A, 4, 6, waited=True)
    seen.answered_static(A, 5, 9, waited=False)
    seen.answered_dynamic(A, 7)
    counts = record(seen).counts
    assert (9, 15, 4, 7) == (counts.static, counts.static_rows, counts.waited, counts.dynamic)


@pytest.mark.parametrize("static", [True, False])
def test_inferences_are_counted_by_kind_with_their_times_and_rows(
    seen: ShapeStatistics, static: bool
) -> None:
    seen.arrived(A, 3, 5)
    for ns, rows in ((700, 1), (500, 4)):
        seen.inferred(A, ns, rows, static=static)
    known = record(seen)
    counts = known.counts
    by_kind = [(counts.static_calls, counts.static_ns), (counts.dynamic_calls, counts.dynamic_ns)]
    parts = [known.static, known.dynamic]
    mine, other = (0, 1) if static else (1, 0)
    assert (2, 1200) == by_kind[mine]
    assert (0, 0) == by_kind[other]
    (part,) = parts[mine]
    assert (2, [(700, 1), (500, 4)]) == (part.calls, part.samples())
    assert () == parts[other]


def test_the_latest_inferences_stand_for_all(seen: ShapeStatistics) -> None:
    count = 3 * _SAMPLES + 5
    seen.arrived(A, count, count)
    for ns in range(count):
        seen.inferred(A, ns, 2 * ns, static=True)
    (part,) = record(seen).static
    latest = range(count - _SAMPLES, count)
    assert count == part.calls == record(seen).counts.static_calls
    assert [(ns, 2 * ns) for ns in latest] == sorted(part.samples())
    assert sum(range(count)) == record(seen).counts.static_ns


def test_how_a_shape_is_served_now_is_asked_for_when_it_is_told(seen: ShapeStatistics) -> None:
    for shape in (A, B):
        seen.arrived(shape, 1, 1)

    def state(shape: ShapeKey) -> tuple[State, str]:
        return ("failed", "no") if shape == B else ("static", "")

    shapes = asyncio.run(seen.report(BOUNDS, state)).shapes
    assert [{"static": 1}, {"failed": 1}] == [dict(shapes[shape].states) for shape in (A, B)]
    assert [[], ["no"]] == [list(shapes[shape].reasons) for shape in (A, B)]


# Compilations -----------------------------------------------------------------------------------


def test_compilations_are_counted_and_the_last_one_is_known(
    seen: ShapeStatistics, clock: Clock
) -> None:
    seen.compiled(A, 0.5, kept=True)
    clock.now += 7
    seen.compiled(A, 0.25, kept=False)
    seen.compile_failed(A)
    known = record(seen)
    expected = Counts(compiles=2, compile_ns=750_000_000, not_worth_it=1, compile_failures=1)
    assert expected == known.counts
    assert LastCompile(1007.0, 250_000_000) == known.last_compile


@pytest.mark.parametrize(("after_s", "soon"), [(0, 1), (SOON_S, 1), (SOON_S + 0.1, 0)])
def test_a_compilation_soon_after_the_shape_was_pushed_out_is_counted_once(
    seen: ShapeStatistics, clock: Clock, after_s: float, soon: int
) -> None:
    seen.compiled(A, 1, kept=True)
    seen.evicted(A)
    clock.now += after_s
    for _ in range(2):
        seen.compiled(A, 1, kept=True)
    assert (1, soon) == (record(seen).counts.evictions, record(seen).counts.recompiled_soon)


def test_a_shape_that_was_never_pushed_out_is_not_compiled_again(seen: ShapeStatistics) -> None:
    seen.compiled(A, 1, kept=True)
    seen.evicted(B)
    assert [0, 0] == [record(seen, shape).counts.recompiled_soon for shape in (A, B)]


# Bounds -----------------------------------------------------------------------------------------


def test_of_too_many_shapes_those_that_are_asked_for_least_are_forgotten(clock: Clock) -> None:
    seen = ShapeStatistics(clock, kept=20)
    for size in range(20):
        clock.now += 1
        seen.arrived(key(size), 1 if size < 8 else 2, 1)
    seen.arrived(key(99), 1, 1)
    report = told(seen)
    assert [*map(key, range(6, 20)), key(99)] == [*report.shapes]
    assert (6, 6) == (report.forgotten, report.others.requests)
    assert (1001.0, 1006.0) == (report.others.first_seen, report.others.last_seen)


def test_compiled_shapes_are_forgotten_last_until_they_are_pushed_out(clock: Clock) -> None:
    seen = ShapeStatistics(clock, kept=4)
    seen.compiled(A, 1, kept=True)
    seen.compiled(B, 1, kept=True)
    seen.evicted(B)
    seen.compiled(C, 1, kept=False)
    for size in range(100, 150):
        seen.arrived(key(size), 1000, 1000)
    shapes = told(seen).shapes
    assert [True, False, False] == [shape in shapes for shape in (A, B, C)]
    assert (2, 1, 1) == (
        told(seen).others.compiles,
        told(seen).others.evictions,
        told(seen).others.not_worth_it,
    )


def test_what_happens_with_a_forgotten_shape_counts_with_the_others(clock: Clock) -> None:
    seen = ShapeStatistics(clock, kept=2)
    seen.arrived(A, 3, 3)
    for shape in (B, C):
        seen.arrived(shape, 9, 9)
    assert A not in told(seen).shapes
    seen.answered_static(A, 1, 1, waited=True)
    seen.answered_dynamic(A, 2)
    for static in (True, False):
        seen.inferred(A, 70, 1, static=static)
    others = told(seen).others
    assert (3, 1, 1, 2) == (others.requests, others.static, others.waited, others.dynamic)
    assert (1, 70, 1, 70) == (
        others.static_calls,
        others.static_ns,
        others.dynamic_calls,
        others.dynamic_ns,
    )
    assert A not in told(seen).shapes


def test_a_flood_of_shapes_takes_bounded_memory_and_leaves_the_favourites(clock: Clock) -> None:
    seen = ShapeStatistics(clock)
    for size in range(3 * KEPT_SHAPES):
        seen.arrived(A, 4, 4)
        seen.arrived(key(10 + size), 1, 1)
        assert len(seen) <= KEPT_SHAPES
    report = told(seen)
    assert 4 * 3 * KEPT_SHAPES == report.shapes[A].counts.requests
    assert 5 * 3 * KEPT_SHAPES == report.totals().requests
    assert 1 + 3 * KEPT_SHAPES == len(report.shapes) + report.forgotten


def test_what_is_kept_of_a_shape_does_not_grow_with_its_requests(seen: ShapeStatistics) -> None:
    sizes = []
    for _ in range(3):
        for ns in range(_SAMPLES):
            seen.arrived(A, 1, 1)
            seen.inferred(A, ns, 1, static=True)
        ring = seen._known[A].static
        assert ring is not None
        sizes.append(sys.getsizeof(ring._ns) + sys.getsizeof(ring._rows))
    assert 1 == len(set(sizes))
    assert sizes[0] < 3 * 8 * _SAMPLES


events = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 5), st.integers(0, 5), st.booleans()),
    max_size=120,
)


@given(events, st.integers(1, 12))
def test_totals_are_right_whatever_is_forgotten(
    happened: list[tuple[int, int, int, bool]], kept: int
) -> None:
    """Beside an account that forgets nothing."""
    seen, account = ShapeStatistics(Clock(), kept=kept), ShapeStatistics(Clock(), kept=10_000)
    for size, requests, rows, static in happened:
        for each in (seen, account):
            each.arrived(key(size), requests, rows)
            each.inferred(key(size), 100 + size, rows, static=static)
            if static:
                each.answered_static(key(size), requests, rows, waited=rows > 3)
                each.compiled(key(size), 0.25, kept=rows > 1)
            else:
                each.answered_dynamic(key(size), requests)
                each.compile_failed(key(size))
        assert len(seen) <= kept
    expected, actual = told(account).totals(), told(seen).totals()
    assert astuple(expected) == astuple(actual)
    assert 0 == told(account).forgotten
    assert sum(requests for _, requests, *_ in happened) == actual.requests


# Telling ----------------------------------------------------------------------------------------


def test_what_was_told_does_not_change(seen: ShapeStatistics) -> None:
    seen.arrived(A, 1, 1)
    seen.inferred(A, 5, 1, static=False)
    first, again = told(seen), told(seen)
    assert first == again
    seen.arrived(A, 1, 1)
    seen.inferred(A, 5, 1, static=False)
    seen.compiled(A, 1, kept=True)
    assert again == first
    assert first != told(seen)


async def test_others_have_their_turn_while_much_is_told_and_nothing_is_told_twice() -> None:
    seen = ShapeStatistics(Clock(), kept=400)
    for size in range(400):
        seen.arrived(key(size), 1, 1)
    telling = asyncio.create_task(seen.report(BOUNDS, lambda _: ("dynamic", "")))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not telling.done()
    seen.arrived(key(1000), 1, 1)  # 101 shapes are forgotten for it
    report = await telling
    assert 0 == report.forgotten
    assert 400 == report.totals().requests
    assert 401 == (await seen.report(BOUNDS, lambda _: ("dynamic", ""))).totals().requests
    assert [*map(key, range(400))] == [*report.shapes]
