"""Records of the shapes that requests had, and the merging of the replicas' records.

Merging is associative, commutative and exact: all sums are of integers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import reduce
from math import inf
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from deployments.inference import ShapeKey

RECOMPILED_SOON_MINUTES: Final = 10
"""A shape that is compiled again within this time should not have been evicted."""

State: TypeAlias = Literal[
    "static", "dynamic", "compiling", "on_trial", "failed", "dynamic_suffices", "not_compiled"
]
"""How a replica would serve a shape now.

In `compiling`, `on_trial`, `failed` and `dynamic_suffices`, a model with a dynamic compilation
answers with that one. In `not_compiled`, a model without one makes the next request wait."""


class Differing(NamedTuple):
    """A difference between the answers of two compilations for a shape.

    `largest` is the difference as a part of the largest value of `output`; `inputs` are the
    statistics of the inputs (least, largest and mean value, by name).
    """

    largest: float
    output: str
    verdict: str
    inputs: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class Counts:
    """The counts of one shape or of several; times in nanoseconds, `seen` in Unix seconds.

    `static` and `dynamic` count requests by the compilation that answered them, `_calls` and `_ns`
    OpenVINO's inferences for them. `waited` counts the static ones that waited for the compilation.
    """

    requests: int = 0
    rows: int = 0
    batches: int = 0
    static: int = 0
    static_rows: int = 0
    static_calls: int = 0
    static_ns: int = 0
    dynamic: int = 0
    dynamic_calls: int = 0
    dynamic_ns: int = 0
    waited: int = 0
    compiles: int = 0
    compile_ns: int = 0
    compile_failures: int = 0
    not_worth_it: int = 0
    evictions: int = 0
    recompiled_soon: int = 0
    first_seen: float = inf
    last_seen: float = -inf

    def copy(self) -> "Counts":
        return Counts(*_VALUES(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles faster than the default: replicas send thousands of these at once."""
        return Counts, _VALUES(self)


_VALUES: Final = attrgetter(*(f.name for f in fields(Counts)))


def total(counts: Iterable[Counts]) -> Counts:
    columns = list(zip(*map(_VALUES, counts), strict=True))
    if not columns:
        return Counts()
    *sums, first_seen, last_seen = columns
    values: list[Any] = [*map(sum, sums), min(first_seen), max(last_seen)]
    return Counts(*values)


class Recent(NamedTuple):
    """A sample of one replica's latest inference calls, which stand for all of its `calls`.

    The time of each and its rows are bytes of 64-bit integers, because there are thousands.
    """

    calls: int
    ns: bytes
    rows: bytes

    def samples(self) -> list[tuple[int, int]]:
        return list(
            zip(memoryview(self.ns).cast("q"), memoryview(self.rows).cast("q"), strict=True)
        )


class LastCompile(NamedTuple):
    at: float
    ns: int


class ShapeRecord(NamedTuple):
    """The record of one shape: replicas by their `states`, and the `reasons` why some failed."""

    counts: Counts
    states: Mapping[State, int]
    static: tuple[Recent, ...] = ()
    dynamic: tuple[Recent, ...] = ()
    last_compile: LastCompile | None = None
    reasons: frozenset[str] = frozenset()
    differing: Differing | None = None


@dataclass(frozen=True, slots=True)
class CacheBounds:
    """The settings that the records help to choose."""

    max_compiled_shapes: int
    promote_after: int


@dataclass(frozen=True, slots=True)
class ShapesReport:
    """The shape records of `replicas` replicas; `others` has the counts of `forgotten` shapes.

    A shape that was forgotten and came back counts as forgotten once, and is in `shapes` too.
    """

    since: float
    bounds: CacheBounds
    shapes: Mapping[ShapeKey, ShapeRecord] = field(default_factory=dict)
    others: Counts = field(default_factory=Counts)
    forgotten: int = 0
    replicas: int = 1

    def totals(self) -> Counts:
        return total([*(record.counts for record in self.shapes.values()), self.others])


def merged(reports: Iterable[ShapesReport]) -> ShapesReport:
    """Merges the reports of at least one replica; of differing settings it takes the largest."""
    return reduce(_merge, reports)


def _merge(one: ShapesReport, other: ShapesReport) -> ShapesReport:
    shapes = dict(one.shapes)
    for key, record in other.shapes.items():
        known = shapes.get(key)
        shapes[key] = record if known is None else _merge_records(known, record)
    return ShapesReport(
        since=min(one.since, other.since),
        bounds=CacheBounds(
            max(one.bounds.max_compiled_shapes, other.bounds.max_compiled_shapes),
            max(one.bounds.promote_after, other.bounds.promote_after),
        ),
        shapes=shapes,
        others=total([one.others, other.others]),
        forgotten=one.forgotten + other.forgotten,
        replicas=one.replicas + other.replicas,
    )


def _merge_records(one: ShapeRecord, other: ShapeRecord) -> ShapeRecord:
    return ShapeRecord(
        counts=total([one.counts, other.counts]),
        states=Counter(one.states) + Counter(other.states),
        static=tuple(sorted(one.static + other.static)),
        dynamic=tuple(sorted(one.dynamic + other.dynamic)),
        last_compile=max(
            (last for last in (one.last_compile, other.last_compile) if last), default=None
        ),
        reasons=one.reasons | other.reasons,
        differing=max(
            (found for found in (one.differing, other.differing) if found),
            key=lambda found: (found.largest, repr(found)),
            default=None,
        ),
    )
