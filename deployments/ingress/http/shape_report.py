"""The answer to `GET /v2/models/{m}/shapes`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isinf
from typing import Any, Final

from deployments.errors import InvalidParameter
from deployments.inference import InputSpec, ModelInfo, ShapeKey
from deployments.ingress.http.shape_advice import (
    RECOMPILED_SOON,
    advice,
    comparison,
    median,
    warm_up_entry,
    weighted,
)
from deployments.observability.shape_records import Counts, Recent, ShapeRecord, ShapesReport, total

DEFAULT_LIMIT: Final = 100
LARGEST_LIMIT: Final = 10_000


def limit_parameter(text: str | None) -> int:
    """Reads the query's `limit`. Raises InvalidParameter."""
    if text is None:
        return DEFAULT_LIMIT
    readable = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_LIMIT))
    if not readable or int(text) > LARGEST_LIMIT:
        raise InvalidParameter("limit", text, 0, LARGEST_LIMIT)
    return int(text)


def encode_shapes(report: ShapesReport, info: ModelInfo, limit: int) -> dict[str, Any]:
    """Encodes the report: `limit` shapes one by one, the rest as `others`, and the totals."""
    ranked = sorted(report.shapes.items(), key=_rank)
    totals = report.totals()
    rest = [record.counts for _, record in ranked[limit:]]
    return {
        "model_name": info.name,
        "model_version": info.version,
        "replicas": report.replicas,
        "since": _written_time(report.since),
        "settings": {
            "max_compiled_shapes": report.bounds.max_compiled_shapes,
            "promote_after": report.bounds.promote_after,
        },
        "advice": advice(report, ranked, info.inputs),
        "totals": {"shapes": len(ranked), **_counted(totals, totals)},
        "others": {
            "shapes": len(rest),
            "forgotten_shapes": report.forgotten,
            **_counted(total([*rest, report.others]), totals),
        },
        "shapes": [_shape(key, record, info.inputs, totals) for key, record in ranked[:limit]],
    }


def _rank(entry: tuple[ShapeKey, ShapeRecord]) -> tuple[int, float, ShapeKey]:
    key, record = entry
    return -record.counts.requests, -record.counts.last_seen, key


def _shape(
    key: ShapeKey, record: ShapeRecord, specs: Sequence[InputSpec], totals: Counts
) -> dict[str, Any]:
    encoded = _counted(record.counts, totals)
    last = record.last_compile
    encoded["static"] |= _medians(record.static)
    encoded["dynamic"] |= _medians(record.dynamic)
    encoded["compile"] |= {
        "last_ms": _ms(last.ns) if last else None,
        "last_at": _written_time(last.at) if last else None,
    }
    return {
        "shape": {spec.name: list(shape) for spec, shape in zip(specs, key, strict=True)},
        "warm_up": warm_up_entry(key, record.counts, specs),
        "now": dict(sorted(record.states.items())),
        "failures": sorted(record.reasons),
        **encoded,
        "compared": _compared(record),
        "differing": record.differing and record.differing._asdict(),
    }


def _counted(counts: Counts, totals: Counts) -> dict[str, Any]:
    batches = counts.batches
    return {
        "requests": counts.requests,
        "share": round(counts.requests / totals.requests, 4) if totals.requests else None,
        "rows": counts.rows,
        "batches": batches,
        "requests_per_batch": round(counts.requests / batches, 2) if batches else None,
        "rows_per_batch": round(counts.rows / batches, 2) if batches else None,
        "first_seen": _written_time(counts.first_seen),
        "last_seen": _written_time(counts.last_seen),
        "unanswered": max(0, counts.requests - counts.static - counts.dynamic),
        "static": {
            "requests": counts.static,
            "waited": counts.waited,
            "calls": counts.static_calls,
            "total_ms": _ms(counts.static_ns),
        },
        "dynamic": {
            "requests": counts.dynamic,
            "calls": counts.dynamic_calls,
            "total_ms": _ms(counts.dynamic_ns),
        },
        "compile": {
            "count": counts.compiles,
            "total_ms": _ms(counts.compile_ns),
            "failures": counts.compile_failures,
            "not_worth_it": counts.not_worth_it,
        },
        "evictions": counts.evictions,
        RECOMPILED_SOON: counts.recompiled_soon,
    }


def _medians(parts: Sequence[Recent]) -> dict[str, Any]:
    """The median times of a call and of a row, from the latest calls of each replica."""
    samples = weighted(parts)
    return {
        "samples": len(samples),
        "median_ms": _ms(median((ns, weight) for ns, _, weight in samples)),
        "median_ms_per_row": _ms(median((ns / rows, w) for ns, rows, w in samples if rows)),
    }


def _compared(record: ShapeRecord) -> dict[str, Any] | None:
    found = comparison(record)
    if found is None:
        return None
    return {
        "rows_per_call": found.rows,
        "static_ms": _ms(found.static_ns),
        "dynamic_ms": _ms(found.dynamic_ns),
        "saved_ms": _ms(found.saved_ns),
        "pays_after_requests": found.pays_after_requests,
    }


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 3)


def _written_time(seconds: float) -> str | None:
    """The time in ISO 8601, UTC; None if it is infinite, which means never."""
    if isinf(seconds):
        return None
    written = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return written.replace("+00:00", "Z")
