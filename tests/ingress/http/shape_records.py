"""Short constructors of shape records."""

from array import array
from collections.abc import Sequence
from typing import Any

from deployments.dimensions import Dim
from deployments.inference import InputSpec, ModelInfo, ShapeKey
from deployments.observability.shape_records import (
    CacheBounds,
    Counts,
    Recent,
    ShapeRecord,
    ShapesReport,
    State,
)

OPEN = Dim(0, None)
MS = 1_000_000

SPECS = (InputSpec("data", "FP32", (OPEN, Dim(3, 3), OPEN), 0),)
INFO = ModelInfo("faces", "3", ("3",), SPECS, (), 32)


def shape(size: int) -> ShapeKey:
    return ((-1, 3, size),)


def recent(calls: int, *ms: float, rows: int | Sequence[int] = 1) -> Recent:
    """The latest of `calls` calls, which took these milliseconds."""
    numbers = [rows] * len(ms) if isinstance(rows, int) else rows
    ns = array("q", [round(each * MS) for each in ms])
    return Recent(calls, ns.tobytes(), array("q", numbers).tobytes())


def record(
    requests: int = 0,
    *,
    now: State = "dynamic",
    static_times: tuple[Recent, ...] = (),
    dynamic_times: tuple[Recent, ...] = (),
    **counts: Any,
) -> ShapeRecord:
    return ShapeRecord(Counts(requests=requests, **counts), {now: 1}, static_times, dynamic_times)


def report(
    *records: ShapeRecord, bound: int = 16, promote_after: int = 8, **more: Any
) -> ShapesReport:
    """A report whose first record is of `shape(0)`, the next one of `shape(1)`."""
    shapes = {shape(number): each for number, each in enumerate(records)}
    return ShapesReport(0.0, CacheBounds(bound, promote_after), shapes, **more)
