"""Advice from the counts, and None where the counts do not determine it."""

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.dimensions import Dim
from deployments.inference import InputSpec, ShapeKey
from deployments.ingress.http.shape_advice import (
    advice,
    comparison,
    median,
    warm_up_entry,
    weighted,
)
from deployments.model.policy.shapes import trial_key
from deployments.observability.shape_records import Counts, ShapesReport
from deployments.settings.model import ModelSettings
from tests.ingress.http.shape_records import MS, OPEN, SPECS, recent, record, report, shape


def advised(given: ShapesReport, specs: Sequence[InputSpec] = SPECS) -> dict[str, Any]:
    ranked = sorted(given.shapes.items(), key=lambda entry: -entry[1].counts.requests)
    return advice(given, ranked, specs)


# Medians ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1))
def test_a_median_of_equal_weights_is_the_lower_median(values: list[int]) -> None:
    assert statistics.median_low(values) == median((value, 1.0) for value in values)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1))
def test_a_weight_is_as_many_of_the_same(pairs: list[tuple[int, int]]) -> None:
    expected = statistics.median_low([value for value, count in pairs for _ in range(count)])
    assert expected == median((value, float(count)) for value, count in pairs)


def test_no_samples_have_no_median() -> None:
    assert median([]) is None


def test_samples_stand_for_all_calls_of_their_replica() -> None:
    few, many = recent(2, 7, 9), recent(300, 1, 2, 3)
    samples = [(7 * MS, 1, 1.0), (9 * MS, 1, 1.0), (MS, 1, 100.0), (2 * MS, 1, 100.0)]
    assert [*samples, (3 * MS, 1, 100.0)] == weighted([few, many])
    assert 2 * MS == median((ns, weight) for ns, _, weight in weighted([few, many]))


# Static beside dynamic --------------------------------------------------------------------------


def test_what_a_compilation_saved_is_the_difference_for_every_row_that_it_answered() -> None:
    found = comparison(
        record(
            120,
            rows=120,
            static_times=(recent(100, 1, 2, 3, 2, 90),),
            dynamic_times=(recent(20, 5, 5, 6, 1, 9),),
            static_rows=100,
            compiles=2,
            compile_ns=1200 * MS,
        )
    )
    assert found is not None
    assert (1, 2 * MS, 5 * MS) == (found.rows, found.static_ns, found.dynamic_ns)
    assert 100 * 3 * MS == found.saved_ns
    assert 200 == found.pays_after_requests  # of 600 ms for 3 ms each


def test_only_calls_with_as_many_rows_are_compared() -> None:
    """Eight rows take longer than one in either; alone, static would look eight times slower."""
    static = recent(15, *[8] * 10, *[2] * 5, rows=[8] * 10 + [2] * 5)
    dynamic = recent(26, *[3] * 20, *[4] * 6, rows=[1] * 20 + [2] * 6)
    given = record(
        50,
        rows=100,
        static_rows=90,
        static_times=(static,),
        dynamic_times=(dynamic,),
        compiles=1,
        compile_ns=7 * MS,
    )
    found = comparison(given)
    assert found is not None
    assert (2, 2 * MS, 4 * MS) == (found.rows, found.static_ns, found.dynamic_ns)
    assert 90 * MS == found.saved_ns
    assert 4 == found.pays_after_requests  # a request of two rows saves 2 ms


@pytest.mark.parametrize(
    ("static", "dynamic"),
    [
        ((), (recent(9, *[1] * 9),)),
        ((recent(9, *[1] * 9),), ()),
        ((recent(4, *[1] * 4),), (recent(9, *[1] * 9),)),
        ((recent(9, *[1] * 9, rows=2),), (recent(9, *[1] * 9, rows=1),)),
        ((recent(9, *[1] * 9, rows=0),), (recent(9, *[1] * 9, rows=0),)),
    ],
    ids=["never static", "never dynamic", "too few", "other rows", "no rows"],
)
def test_what_cannot_be_compared_is_not(static: Any, dynamic: Any) -> None:
    assert comparison(record(9, static_times=static, dynamic_times=dynamic)) is None


def test_batches_without_rows_do_not_stand_in_the_way_of_others() -> None:
    rows = [0] * 9 + [1] * 5
    times = [1] * 9 + [4] * 5
    parts = (recent(14, *times, rows=rows),)
    found = comparison(record(14, static_times=parts, dynamic_times=parts))
    assert found is not None
    assert 1 == found.rows


def test_a_compilation_that_is_slower_saves_less_than_nothing_and_never_pays() -> None:
    slower = record(
        60,
        rows=60,
        static_rows=50,
        static_times=(recent(50, *[5] * 5),),
        dynamic_times=(recent(10, *[3] * 5),),
        compiles=1,
        compile_ns=MS,
    )
    found = comparison(slower)
    assert found is not None
    assert (-100 * MS, None) == (found.saved_ns, found.pays_after_requests)
    assert -100.0 == advised(report(slower))["saved_ms"]


def test_savings_come_with_the_share_of_answers_they_are_known_for() -> None:
    known = record(
        40,
        rows=40,
        static_times=(recent(30, *[1] * 5),),
        dynamic_times=(recent(10, *[3] * 5),),
        static=30,
        static_rows=30,
        compiles=1,
        compile_ns=9 * MS,
    )
    unknown = record(10, static=10)
    told = advised(report(known, unknown))
    assert (60.0, 0.75, 5) == tuple(
        told[name] for name in ("saved_ms", "saved_ms_known_for", "pays_after_requests")
    )


# Shapes that matter -----------------------------------------------------------------------------


def coverage(given: ShapesReport) -> list[int | None]:
    return [advised(given)[f"shapes_for_{percent}_percent"] for percent in (90, 95, 99)]


def test_the_number_of_shapes_for_a_percentage_of_the_requests() -> None:
    requests = [500, 400, 50, 40, 5, 3, 1, 1]
    assert [2, 3, 4] == coverage(report(*map(record, requests)))
    assert [1, 1, 1] == coverage(report(record(7)))


def test_how_many_shapes_is_unknown_where_forgotten_ones_are_among_them() -> None:
    given = report(record(900), record(50), others=Counts(requests=50), forgotten=50)
    assert [1, 2, None] == coverage(given)


def test_nothing_is_known_without_requests() -> None:
    warmed = report(record(now="static"))
    assert [None] * 3 == coverage(report()) == coverage(warmed)
    told = advised(warmed)
    unknown = ("hit_rate", "saved_ms_known_for", "pays_after_requests")
    assert [None] * 3 == [told[name] for name in unknown]
    assert (0.0, []) == (told["saved_ms"], told["warm_up"])


def test_a_hit_was_answered_by_a_compilation_that_was_there() -> None:
    one = record(60, static=40, waited=10, dynamic=15)
    others = Counts(requests=30, static=20, dynamic=5)
    told = advised(report(one, others=others, forgotten=3))
    assert 0.625 == told["hit_rate"]  # 30 + 20 of 40 + 15 + 20 + 5


def test_the_advice_counts_regretted_evictions_of_all_shapes() -> None:
    given = report(
        record(5, evictions=4, recompiled_soon=2), others=Counts(evictions=2, recompiled_soon=1)
    )
    told = advised(given)
    assert (6, 3) == (told["evictions"], told["recompiled_within_10_minutes"])


def test_the_advice_counts_requests_that_another_promote_after_would_move() -> None:
    compiled = record(50, compiles=1, dynamic=9)
    told = advised(report(compiled, record(8), record(7), record(2), promote_after=8))
    assert 9 == told["dynamic_requests_of_compiled_shapes"]
    assert 2 == told["shapes_below_promote_after"]
    assert 9 == told["requests_below_promote_after"]


# warm_up ----------------------------------------------------------------------------------------


def test_the_shapes_that_bring_most_are_to_be_warmed_up() -> None:
    given = report(*map(record, [500, 400, 60, 40]))
    assert ["(1,3,0)", "(1,3,1)"] == advised(given)["warm_up"]


def test_no_more_shapes_are_to_be_warmed_up_than_are_kept() -> None:
    given = report(*map(record, [10, 10, 10, 10]), bound=2)
    assert ["(1,3,0)", "(1,3,1)"] == advised(given)["warm_up"]


def test_shapes_for_which_a_compilation_is_of_no_use_are_not_to_be_warmed_up() -> None:
    given = report(
        record(10, now="failed"),
        record(9, now="dynamic_suffices"),
        record(8, now="not_compiled"),
        record(0, now="static"),
    )
    assert ["(1,3,2)"] == advised(given)["warm_up"]


TWO = (
    InputSpec("ids", "INT64", (OPEN, OPEN), 0),
    InputSpec("mask", "INT64", (OPEN, OPEN), 0),
)


@pytest.mark.parametrize(
    ("key", "specs", "rows", "expected"),
    [
        (shape(300), SPECS, 10, "(1,3,300)"),
        (shape(300), SPECS, 11, "(2,3,300)"),
        (((1, 3, 300),), SPECS, 10, "(1,3,300)"),
        (((-1, 128), (-1, 64)), TWO, 10, {"ids": "(1,128)", "mask": "(1,64)"}),
        (((-1, 128), (-1, 64)), TWO, 90, {"ids": "(2,128)", "mask": "(2,64)"}),
        (((4, 9),), (InputSpec("x", "FP32", (Dim(4, 4), OPEN)),), 10, "(4,9)"),
        (((-1, 9),), (InputSpec("x", "FP32", (Dim(4, 8), OPEN), 0),), 50, "(4,9)"),
        (((-1, 9),), (InputSpec("x", "FP32", (Dim(0, 1), OPEN), 0),), 50, "(1,9)"),
        (((-1, 0),), (InputSpec("x", "FP32", (OPEN, OPEN), 0),), 10, "(1,0)"),
        (((),), (InputSpec("x", "FP32", ()),), 10, "()"),
        (((7,),), (InputSpec("x", "FP32", (OPEN,)),), 10, "(7)"),
        (((2, 128), (1, 64)), TWO, 10, None),
        ((), (), 10, None),
    ],
    ids=str,
)
def test_a_shape_is_written_as_warm_up_takes_it(
    key: ShapeKey, specs: tuple[InputSpec, ...], rows: int, expected: object
) -> None:
    assert expected == warm_up_entry(key, Counts(requests=10, rows=rows), specs)


dims = st.one_of(
    st.just(OPEN),
    st.integers(0, 5).map(lambda size: Dim(size, size)),
    st.tuples(st.integers(0, 4), st.integers(5, 9)).map(lambda ends: Dim(*ends)),
)


@st.composite
def keys_and_specs(draw: st.DrawFn) -> tuple[ShapeKey, tuple[InputSpec, ...]]:
    specs, key = [], []
    for number in range(draw(st.integers(1, 3))):
        accepted = tuple(draw(st.lists(dims, max_size=4)))
        batched = bool(accepted) and accepted[0].fixed is None and draw(st.booleans())
        specs.append(InputSpec(f"input{number}", "FP32", accepted, 0 if batched else None))
        sizes = [dim.minimum if dim.fixed is not None else 5 for dim in accepted]
        key.append((-1, *sizes[1:]) if batched else tuple(sizes))
    return tuple(key), tuple(specs)


@given(keys_and_specs(), st.integers(10, 11))
def test_the_settings_take_what_is_written_and_warm_up_that_very_shape(
    given: tuple[ShapeKey, tuple[InputSpec, ...]], rows: int
) -> None:
    key, specs = given
    entry = warm_up_entry(key, Counts(requests=10, rows=rows), specs)
    assert entry is not None
    settings = ModelSettings.model_validate({"name": "m", "source": "m", "warm_up": [entry]})
    (shapes,) = settings.warm_up_shapes
    by_input = [shapes[spec.name] for spec in specs] if isinstance(shapes, dict) else [shapes]
    assert key == trial_key(specs, by_input)
    for spec, sizes in zip(specs, by_input, strict=True):
        assert all(dim.accepts(size) for dim, size in zip(spec.dims, sizes, strict=True))
