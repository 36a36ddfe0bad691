"""Advice from the counts of shapes: which ones matter, and what their compilations save.

Nothing here is a guess: a value that the counts do not determine is None.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median_low
from typing import Any, Final, TypeAlias

from deployments.inference import InputSpec, ShapeKey, rows_of_inputs
from deployments.observability.shape_records import (
    RECOMPILED_SOON_MINUTES,
    Counts,
    Recent,
    ShapeRecord,
    ShapesReport,
    State,
)

Ranked: TypeAlias = Sequence[tuple[ShapeKey, ShapeRecord]]
"""Shapes, the most-requested first."""

RECOMPILED_SOON: Final = f"recompiled_within_{RECOMPILED_SOON_MINUTES}_minutes"

_PERCENTS: Final = (90, 95, 99)
_WARMED_PERCENT: Final = 90
_COMPARABLE_CALLS: Final = 5
_NO_PLACE_FOR: Final[tuple[State, ...]] = ("failed", "dynamic_suffices")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The median times of calls with the same number of rows, and the savings for the shape.

    `pays_after_requests` is None if a compilation of its own saves nothing.
    """

    rows: int
    static_ns: float
    dynamic_ns: float
    saved_ns: float
    pays_after_requests: int | None


def median(samples: Iterable[tuple[float, float]]) -> float | None:
    """The weighted median of (value, weight) pairs; None without pairs."""
    ordered = sorted(samples)
    half, reached = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= half:
            return value
    return None


def weighted(parts: Iterable[Recent]) -> list[tuple[int, int, float]]:
    """The time and rows of each sample, and how many of its replica's calls it stands for."""
    return [
        (ns, rows, part.calls / len(samples))
        for part in parts
        for samples in [part.samples()]
        for ns, rows in samples
    ]


def comparison(record: ShapeRecord) -> Comparison | None:
    """Compares both kinds of calls at the number of rows with the most calls of both.

    Batches grow with the load, and a batch of eight rows is not comparable with one of one row.
    """
    static, dynamic = _by_rows(record.static), _by_rows(record.dynamic)
    both = static.keys() & dynamic.keys()
    calls = {rows: min(len(static[rows]), len(dynamic[rows])) for rows in both if rows > 0}
    rows = max(calls, key=lambda rows: (calls[rows], -rows), default=0)
    if calls.get(rows, 0) < _COMPARABLE_CALLS:
        return None
    static_ns, dynamic_ns = median(static[rows]), median(dynamic[rows])
    assert static_ns is not None
    assert dynamic_ns is not None
    per_row = (dynamic_ns - static_ns) / rows
    saved_ns = record.counts.static_rows * per_row
    return Comparison(rows, static_ns, dynamic_ns, saved_ns, _pays_after(record.counts, per_row))


def _by_rows(parts: Iterable[Recent]) -> Mapping[int, list[tuple[float, float]]]:
    by_rows = defaultdict(list)
    for ns, rows, weight in weighted(parts):
        by_rows[rows].append((float(ns), weight))
    return by_rows


def _pays_after(counts: Counts, saved_ns_per_row: float) -> int | None:
    """The number of average requests after which a compilation has saved its own time."""
    if not (counts.compiles and counts.requests and saved_ns_per_row > 0 and counts.rows):
        return None
    compile_ns = counts.compile_ns / counts.compiles
    return ceil(compile_ns / (saved_ns_per_row * counts.rows / counts.requests))


def warm_up_entry(
    key: ShapeKey, counts: Counts, specs: Sequence[InputSpec]
) -> str | dict[str, str] | None:
    """The shape as an entry of `warm_up`; None if `warm_up` cannot express it.

    If most requests have several rows, the entry has two rows, which stand for any number, because
    one row may have a compilation of its own.
    """
    if not key or len(rows_of_inputs(specs, key)) > 1:
        return None  # requests whose inputs disagree on the rows have keys of their own
    fewest = 2 if counts.rows > counts.requests else 1
    written = {
        spec.name: "(" + ",".join(map(str, _with_rows(shape, spec, fewest))) + ")"
        for spec, shape in zip(specs, key, strict=True)
    }
    return written if len(written) > 1 else written[specs[0].name]


def _with_rows(shape: Sequence[int], spec: InputSpec, rows: int) -> list[int]:
    return [
        spec.dims[axis].nearest(rows) if size == -1 else size for axis, size in enumerate(shape)
    ]


def advice(report: ShapesReport, ranked: Ranked, specs: Sequence[InputSpec]) -> dict[str, Any]:
    totals = report.totals()
    answered = totals.static + totals.dynamic
    return {
        **{f"shapes_for_{n}_percent": _shapes_for(n, ranked, totals.requests) for n in _PERCENTS},
        "hit_rate": round((totals.static - totals.waited) / answered, 4) if answered else None,
        "evictions": totals.evictions,
        RECOMPILED_SOON: totals.recompiled_soon,
        **_worth(ranked),
        **_promotion(ranked, report.bounds.promote_after),
        "warm_up": _warm_up(report, ranked, specs, totals.requests),
    }


def _shapes_for(percent: int, ranked: Ranked, requests: int) -> int | None:
    """How many shapes bring `percent` of the requests; None if forgotten ones are needed."""
    reached = 0
    for number, (_, record) in enumerate(ranked, 1):
        reached += record.counts.requests
        if requests and 100 * reached >= percent * requests:
            return number
    return None


def _worth(ranked: Ranked) -> dict[str, Any]:
    """The time that static compilations saved, and the share of their answers it is known for."""
    compared = [(record, found) for _, record in ranked if (found := comparison(record))]
    static = sum(record.counts.static for _, record in ranked)
    known = sum(record.counts.static for record, _ in compared)
    pays_after = [found.pays_after_requests for _, found in compared if found.pays_after_requests]
    return {
        "saved_ms": round(sum(found.saved_ns for _, found in compared) / 1e6, 3),
        "saved_ms_known_for": round(known / static, 4) if static else None,
        "pays_after_requests": median_low(pays_after) if pays_after else None,
    }


def _promotion(ranked: Ranked, promote_after: int) -> dict[str, Any]:
    """The requests that a lower `promote_after` could move at most, and those below it."""
    compiled = [record.counts for _, record in ranked if record.counts.compiles]
    rare = [record.counts for _, record in ranked if record.counts.requests < promote_after]
    return {
        "dynamic_requests_of_compiled_shapes": sum(counts.dynamic for counts in compiled),
        "shapes_below_promote_after": len(rare),
        "requests_below_promote_after": sum(counts.requests for counts in rare),
    }


def _warm_up(
    report: ShapesReport, ranked: Ranked, specs: Sequence[InputSpec], requests: int
) -> list[str | dict[str, str]]:
    """The shapes that bring most of the requests, if a compilation helps them."""
    entries: list[str | dict[str, str]] = []
    most = _shapes_for(_WARMED_PERCENT, ranked, requests) or len(ranked)
    for key, record in ranked[:most]:
        entry = warm_up_entry(key, record.counts, specs)
        useful = record.counts.requests and not any(record.states.get(s) for s in _NO_PLACE_FOR)
        if entry is not None and useful and len(entries) < report.bounds.max_compiled_shapes:
            entries.append(entry)
    return entries
