"""The report on shapes: complete, sorted, and uniform."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import InvalidParameter
from deployments.ingress.http.shape_report import DEFAULT_LIMIT, encode_shapes, limit_parameter
from deployments.model.cache.shape_statistics import _SAMPLES, KEPT_SHAPES
from deployments.observability.shape_records import (
    Counts,
    Differing,
    LastCompile,
    ShapeRecord,
    ShapesReport,
    merged,
)
from tests.ingress.http.shape_records import INFO, MS, recent, record, report, shape

SUMS = ("requests", "rows", "batches", "unanswered", "evictions", "recompiled_within_10_minutes")


def encoded(given: ShapesReport, limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """The report after a round trip through JSON, as clients get it."""
    answer = orjson.loads(orjson.dumps(encode_shapes(given, INFO, limit)))
    assert isinstance(answer, dict)
    return answer


# The limit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"), [(None, 100), ("0", 0), ("7", 7), ("007", 7), ("10000", 10_000)]
)
def test_a_limit_that_is_understood(text: str | None, expected: int) -> None:
    assert expected == limit_parameter(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "10001", "ten", "+5", " 5", "٣", "9" * 5000])
def test_a_limit_that_is_refused_by_its_name_with_the_value_and_the_bounds(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        limit_parameter(text)
    expected = f"parameter 'limit' is {text[:40]!r}, not a number from 0 to 10000"
    assert (400, expected) == (caught.value.http_status, caught.value.message)


# The whole --------------------------------------------------------------------------------------


def test_the_answer_names_the_model_and_the_settings_that_it_is_about() -> None:
    answer = encoded(report(bound=4, promote_after=2, replicas=3))
    assert ("faces", "3", 3) == tuple(
        answer[name] for name in ("model_name", "model_version", "replicas")
    )
    assert {"max_compiled_shapes": 4, "promote_after": 2} == answer["settings"]
    assert "1970-01-01T00:00:00.000Z" == answer["since"]
    assert [] == answer["shapes"]
    assert (0, 0, None) == tuple(answer["totals"][n] for n in ("shapes", "requests", "share"))


def test_shapes_come_by_requests_then_by_the_last_time() -> None:
    given = report(
        record(5, last_seen=1.0), record(9), record(5, last_seen=2.0), record(5, last_seen=1.0)
    )
    listed = [entry["shape"]["data"][-1] for entry in encoded(given)["shapes"]]
    assert [1, 2, 0, 3] == listed


@given(
    st.lists(st.tuples(*[st.integers(0, 99)] * 5), max_size=8),
    st.tuples(*[st.integers(0, 99)] * 5),
    st.integers(0, 10),
)
def test_listed_shapes_and_the_others_make_up_the_totals(
    drawn: list[tuple[int, ...]], others: tuple[int, ...], limit: int
) -> None:
    def counts(numbers: tuple[int, ...]) -> Counts:
        requests, rows, batches, evictions, soon = numbers
        return Counts(
            requests=requests,
            rows=rows,
            batches=batches,
            static=requests // 2,
            dynamic=requests // 3,
            evictions=evictions,
            recompiled_soon=soon,
        )

    shapes = [ShapeRecord(counts(numbers), {"dynamic": 1}) for numbers in drawn]
    answer = encoded(report(*shapes, others=counts(others), forgotten=3), limit)
    parts = [*answer["shapes"], answer["others"]]
    assert min(limit, len(drawn)) == len(answer["shapes"])
    assert len(drawn) - len(answer["shapes"]) == answer["others"]["shapes"]
    assert (len(drawn), 3) == (answer["totals"]["shapes"], answer["others"]["forgotten_shapes"])
    for name in SUMS:
        assert answer["totals"][name] == sum(part[name] for part in parts)
    for kind in ("static", "dynamic"):
        total = answer["totals"][kind]["requests"]
        assert total == sum(part[kind]["requests"] for part in parts)


# One shape --------------------------------------------------------------------------------------


def test_the_report_has_all_counts_of_a_shape() -> None:
    known = ShapeRecord(
        Counts(
            requests=24,
            rows=48,
            batches=12,
            static=15,
            static_rows=30,
            static_calls=9,
            static_ns=70 * MS,
            dynamic=6,
            dynamic_calls=6,
            dynamic_ns=40 * MS,
            waited=2,
            compiles=2,
            compile_ns=60 * MS,
            compile_failures=1,
            evictions=1,
            recompiled_soon=1,
            first_seen=1.5,
            last_seen=86400.25,
        ),
        {"static": 1, "compiling": 2},
        (recent(9, 4, 4, 4, 6, 6, 6, 6, 12, 14, rows=[1, 1, 1, 2, 2, 2, 2, 2, 2]),),
        (recent(6, 8, 8, 8, 8, 8, 8, rows=2),),
        LastCompile(3.0, 20 * MS),
        frozenset({"b", "a"}),
    )
    unknown = record(8)
    (entry, _) = encoded(report(known, unknown))["shapes"]
    assert {
        "shape": {"data": [-1, 3, 0]},
        "warm_up": "(2,3,0)",
        "now": {"compiling": 2, "static": 1},
        "failures": ["a", "b"],
        "requests": 24,
        "share": 0.75,
        "rows": 48,
        "batches": 12,
        "requests_per_batch": 2.0,
        "rows_per_batch": 4.0,
        "first_seen": "1970-01-01T00:00:01.500Z",
        "last_seen": "1970-01-02T00:00:00.250Z",
        "unanswered": 3,
        "static": {
            "requests": 15,
            "waited": 2,
            "calls": 9,
            "total_ms": 70.0,
            "samples": 9,
            "median_ms": 6.0,
            "median_ms_per_row": 4.0,
        },
        "dynamic": {
            "requests": 6,
            "calls": 6,
            "total_ms": 40.0,
            "samples": 6,
            "median_ms": 8.0,
            "median_ms_per_row": 4.0,
        },
        "compile": {
            "count": 2,
            "total_ms": 60.0,
            "failures": 1,
            "not_worth_it": 0,
            "last_ms": 20.0,
            "last_at": "1970-01-01T00:00:03.000Z",
        },
        "evictions": 1,
        "recompiled_within_10_minutes": 1,
        "compared": {
            "rows_per_call": 2,
            "static_ms": 6.0,
            "dynamic_ms": 8.0,
            "saved_ms": 30.0,
            "pays_after_requests": 15,
        },
        "differing": None,
    } == entry


def test_the_report_has_the_difference_between_compilations() -> None:
    differing = Differing(0.25, "y", "the dynamic one answers", {"x": {"min": 0.0, "max": 1.0}})
    (entry,) = encoded(report(record(1)._replace(differing=differing)))["shapes"]
    assert {
        "largest": 0.25,
        "output": "y",
        "verdict": "the dynamic one answers",
        "inputs": {"x": {"min": 0.0, "max": 1.0}},
    } == entry["differing"]


def test_a_shape_that_was_only_warmed_up_has_no_times_and_no_means() -> None:
    (entry,) = encoded(report(record(now="static", compiles=1)))["shapes"]
    unknown = ("share", "first_seen", "last_seen", "requests_per_batch", "rows_per_batch")
    assert [None] * 6 == [*(entry[name] for name in unknown), entry["compared"]]
    assert [None] * 2 == [entry["static"][n] for n in ("median_ms", "median_ms_per_row")]


def test_calls_without_rows_have_a_time_but_none_per_row() -> None:
    (entry,) = encoded(report(record(3, dynamic_times=(recent(3, 5, 5, 5, rows=0),))))["shapes"]
    assert (5.0, None) == (entry["dynamic"]["median_ms"], entry["dynamic"]["median_ms_per_row"])


def test_the_number_of_unanswered_requests_is_never_negative() -> None:
    """A shape that was forgotten meanwhile has more answers than requests."""
    assert 0 == encoded(report(record(1, dynamic=3)))["shapes"][0]["unanswered"]


def test_reports_of_replicas_are_merged() -> None:
    one = report(record(5, now="static", static_times=(recent(1000, 1),)), record(3))
    other = report(record(2, now="dynamic", static_times=(recent(10, 9),)))
    answer = encoded(merged([one, other]))
    first = answer["shapes"][0]
    assert (2, 10, 7) == (answer["replicas"], answer["totals"]["requests"], first["requests"])
    assert {"static": 1, "dynamic": 1} == first["now"]
    assert (2, 1.0) == (first["static"]["samples"], first["static"]["median_ms"])
    assert {"data": list(shape(0)[0])} == first["shape"]


# The README -------------------------------------------------------------------------------------


def names(answer: object) -> set[str]:
    if isinstance(answer, list):
        return set().union(*map(names, answer))
    if isinstance(answer, dict):
        return set(answer).union(*map(names, answer.values()))
    return set()


def test_the_readme_shows_all_fields_of_the_report() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    section = text.split("## What the server knows about shapes\n")[1].split("\n## ")[0]
    shown = set(re.findall(r'"(\w+)":', section.split("```")[3]))
    times = (recent(9, *[5] * 9),)
    known = record(9, now="static", static_times=times, dynamic_times=times)
    assert names(encoded(report(known))) == shown
    assert f"{KEPT_SHAPES:,} shapes" in section
    assert f"latest {_SAMPLES} calls" in section
