"""Merging replicas' records must not depend on their order, and must lose nothing."""

import pickle
from dataclasses import astuple
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference import ShapeKey
from deployments.observability.shape_records import (
    CacheBounds,
    Counts,
    Differing,
    LastCompile,
    Recent,
    ShapeRecord,
    ShapesReport,
    merged,
    total,
)

KEYS: list[ShapeKey] = [((-1, size),) for size in range(4)]

numbers = st.integers(0, 2**62)
moments = st.floats(0, 2e9)
counts = st.builds(
    Counts, *[numbers] * 17, first_seen=moments | st.just(float("inf")), last_seen=moments
)


@st.composite
def recents(draw: st.DrawFn) -> tuple[Recent, ...]:
    length = 8 * draw(st.integers(0, 2))
    parts = st.builds(
        Recent,
        st.integers(1, 9),
        st.binary(min_size=length, max_size=length),
        st.binary(min_size=length, max_size=length),
    )
    return tuple(sorted(draw(st.lists(parts, max_size=2))))


records = st.builds(
    ShapeRecord,
    counts,
    st.dictionaries(st.sampled_from(["static", "dynamic", "failed"]), st.integers(1, 3)),
    recents(),
    recents(),
    st.none() | st.builds(LastCompile, moments, numbers),
    st.frozensets(st.sampled_from(["no", "never"])),
    st.none()
    | st.builds(
        Differing,
        st.floats(0, 1),
        st.sampled_from(["y", "z"]),
        st.just("the dynamic one answers"),
        st.fixed_dictionaries({"x": st.fixed_dictionaries({"max": moments})}),
    ),
)
reports = st.builds(
    ShapesReport,
    moments,
    st.builds(CacheBounds, st.integers(1, 99), st.integers(1, 99)),
    st.dictionaries(st.sampled_from(KEYS), records),
    counts,
    st.integers(0, 9),
    st.integers(1, 9),
)


@given(reports, reports)
def test_merging_is_commutative(one: ShapesReport, other: ShapesReport) -> None:
    assert merged([one, other]) == merged([other, one])


@given(reports, reports, reports)
def test_merging_is_associative(a: ShapesReport, b: ShapesReport, c: ShapesReport) -> None:
    assert merged([merged([a, b]), c]) == merged([a, merged([b, c])]) == merged([a, b, c])


@given(st.lists(reports, min_size=1, max_size=4))
def test_totals_of_the_merged_are_the_sums_of_all_totals(several: list[ShapesReport]) -> None:
    result = merged(several)
    sums = [
        sum(values) for values in zip(*(astuple(r.totals())[:-2] for r in several), strict=True)
    ]
    assert sums == list(astuple(result.totals())[:-2])
    assert min(r.totals().first_seen for r in several) == result.totals().first_seen
    assert max(r.totals().last_seen for r in several) == result.totals().last_seen
    assert sum(r.replicas for r in several) == result.replicas
    assert sum(r.forgotten for r in several) == result.forgotten


@given(st.lists(reports, min_size=1, max_size=4))
def test_every_shape_keeps_what_each_replica_says_of_it(several: list[ShapesReport]) -> None:
    result = merged(several)
    for key in KEYS:
        known = [report.shapes[key] for report in several if key in report.shapes]
        assert bool(known) == (key in result.shapes)
        if not known:
            continue
        record = result.shapes[key]
        assert total(r.counts for r in known) == record.counts
        assert sorted(sum((r.static for r in known), ())) == list(record.static)
        assert sorted(sum((r.dynamic for r in known), ())) == list(record.dynamic)
        for state in ("static", "dynamic", "failed"):
            assert sum(r.states.get(state, 0) for r in known) == record.states.get(state, 0)
        assert frozenset().union(*(r.reasons for r in known)) == record.reasons
        assert max((r.last_compile for r in known if r.last_compile), default=None) == (
            record.last_compile
        )


@given(reports, reports)
def test_merging_leaves_what_is_merged_as_it_was(one: ShapesReport, other: ShapesReport) -> None:
    before = pickle.dumps((one, other))
    merged([one, other])
    assert pickle.loads(before) == (one, other)


@given(reports)
def test_a_report_crosses_processes_and_merged_alone_is_itself(report: ShapesReport) -> None:
    assert report == pickle.loads(pickle.dumps(report)) == merged([report])


def test_the_total_of_nothing_is_nothing() -> None:
    assert Counts() == total([]) == total([Counts()])


@given(counts)
def test_a_copy_of_counts_is_equal_and_apart(one: Counts) -> None:
    before, copied = astuple(one), one.copy()
    assert one == copied
    copied.requests += 1
    assert before == astuple(one)


def test_of_differing_settings_of_replicas_the_largest_is_reported() -> None:
    """They differ only while a new configuration is rolled out."""
    several = [ShapesReport(0.0, CacheBounds(*bounds)) for bounds in ((4, 8), (16, 2), (1, 1))]
    assert CacheBounds(16, 8) == reduce(lambda a, b: merged([a, b]), several).bounds
    with pytest.raises(TypeError):
        merged([])
