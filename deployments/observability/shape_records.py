"""What is known of the shapes that a model was asked for, and how replicas' knowledge merges.

Merging is associative and commutative, and exact: everything that is added up is an integer.
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
"""A shape that is compiled again so soon after it was pushed out should not have been."""

State: TypeAlias = Literal[
    "static", "dynamic", "compiling", "on_trial", "failed", "dynamic_suffices", "not_compiled"
]
"""How a replica would serve a shape now. Where it is `compiling`, `on_trial`, `failed` or
`dynamic_suffices`, a model with a compilation for all shapes answers with that one; `not_compiled`
is what the next request waits for where there is none."""


class Differing(NamedTuple):
    """Two compilations for a shape gave different answers: by `largest` of the largest value of
    `output`, for inputs with these statistics (least, largest and mean value, by name)."""

    largest: float
    output: str
    verdict: str
    inputs: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class Counts:
    """What happened with a shape, or with many. Times are in nanoseconds, `seen` in Unix seconds.

    `static` and `dynamic` count requests by the compilation that answered them, the `_calls` and
    `_ns` what OpenVINO ran for them; of the static ones, `waited` had to wait for the compilation.
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
        """Thousands of them cross at once, and what pickle would do by itself is slow."""
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
    """The latest of one replica's inference calls, which stand for all `calls` that it made.

    How long each took and its rows, as bytes of 64-bit integers: there are thousands of these.
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
    """One shape: `states` says how many replicas serve it how, `reasons` why some failed."""

    counts: Counts
    states: Mapping[State, int]
    static: tuple[Recent, ...] = ()
    dynamic: tuple[Recent, ...] = ()
    last_compile: LastCompile | None = None
    reasons: frozenset[str] = frozenset()
    differing: Differing | None = None


@dataclass(frozen=True, slots=True)
class CacheBounds:
    """The settings that the records are there to choose."""

    max_compiled_shapes: int
    promote_after: int


@dataclass(frozen=True, slots=True)
class ShapesReport:
    """What so many replicas know. The `forgotten` shapes' counts are in `others`.

    A shape that was forgotten and came back was forgotten once and is among `shapes` too.
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
    """One report of all replicas, at least one. Their settings are told as the largest."""
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
