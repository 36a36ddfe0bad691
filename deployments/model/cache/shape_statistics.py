"""Counts events for each shape of a version, in bounded memory and constant time.

Belongs to the event loop: worker threads pass it the times that they measure.
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Final

from deployments.inference import ShapeKey
from deployments.observability.shape_records import (
    RECOMPILED_SOON_MINUTES,
    CacheBounds,
    Counts,
    Differing,
    LastCompile,
    Recent,
    ShapeRecord,
    ShapesReport,
    State,
    total,
)

KEPT_SHAPES: Final = 2048
_SAMPLES: Final = 64
_COPIED_AT_ONCE: Final = 64


class _Ring:
    """The last inference calls, in arrays: a tuple for each would take ten times the memory."""

    __slots__ = ("_next", "_ns", "_rows")

    def __init__(self) -> None:
        self._ns = array("q")
        self._rows = array("q")
        self._next = 0

    def add(self, ns: int, rows: int) -> None:
        if len(self._ns) < _SAMPLES:
            self._ns.append(ns)
            self._rows.append(rows)
            return
        self._ns[self._next] = ns
        self._rows[self._next] = rows
        self._next = (self._next + 1) % _SAMPLES

    def recent(self, calls: int) -> tuple[Recent, ...]:
        return (Recent(calls, self._ns.tobytes(), self._rows.tobytes()),)


@dataclass(slots=True)
class _Known:
    counts: Counts = field(default_factory=Counts)
    static: _Ring | None = None
    dynamic: _Ring | None = None
    last_compile: LastCompile | None = None
    compiled: bool = False
    evicted_at: float = -inf

    def record(self, state: State, reason: str, differing: Differing | None) -> ShapeRecord:
        counts = self.counts
        return ShapeRecord(
            counts=counts.copy(),
            states={state: 1},
            static=self.static.recent(counts.static_calls) if self.static else (),
            dynamic=self.dynamic.recent(counts.dynamic_calls) if self.dynamic else (),
            last_compile=self.last_compile,
            reasons=frozenset({reason} if reason else ()),
            differing=differing,
        )


class ShapeStatistics:
    """Counts a version's requests, inferences and compilations by shape.

    Keeps at most `kept` shapes. It drops those with the fewest requests first, and compiled ones
    last; their counts stay in the sums. `clock` gives Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time, kept: int = KEPT_SHAPES) -> None:
        self._clock = clock
        self._kept = kept
        self._since = clock()
        self._known: dict[ShapeKey, _Known] = {}
        self._others = Counts()
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._known)

    def arrived(self, key: ShapeKey, requests: int, rows: int) -> None:
        """Counts a batch that arrived."""
        now = self._clock()
        counts = self._at(key).counts
        counts.requests += requests
        counts.rows += rows
        counts.batches += 1
        if now < counts.first_seen:
            counts.first_seen = now
        if now > counts.last_seen:
            counts.last_seen = now

    def answered_static(self, key: ShapeKey, requests: int, rows: int, *, waited: bool) -> None:
        """Counts answers of a static compilation, and whether the requests `waited` for it."""
        counts = self._counts(key)
        counts.static += requests
        counts.static_rows += rows
        if waited:
            counts.waited += requests

    def answered_dynamic(self, key: ShapeKey, requests: int) -> None:
        self._counts(key).dynamic += requests

    def inferred(self, key: ShapeKey, ns: int, rows: int, *, static: bool) -> None:
        """Records the nanoseconds and rows of one OpenVINO inference."""
        known = self._known.get(key)
        counts = self._others if known is None else known.counts
        if static:
            counts.static_calls += 1
            counts.static_ns += ns
        else:
            counts.dynamic_calls += 1
            counts.dynamic_ns += ns
        if known is None:
            return
        if static:
            known.static = known.static or _Ring()
            known.static.add(ns, rows)
        else:
            known.dynamic = known.dynamic or _Ring()
            known.dynamic.add(ns, rows)

    def compiled(self, key: ShapeKey, seconds: float, *, kept: bool) -> None:
        """Records a static compilation that was `kept`, or discarded after its trial."""
        known, now = self._at(key), self._clock()
        known.last_compile = LastCompile(now, round(seconds * 1e9))
        known.counts.compiles += 1
        known.counts.compile_ns += known.last_compile.ns
        if now - known.evicted_at <= 60 * RECOMPILED_SOON_MINUTES:
            known.counts.recompiled_soon += 1
        known.evicted_at = -inf
        known.compiled = kept
        if not kept:
            known.counts.not_worth_it += 1

    def compile_failed(self, key: ShapeKey) -> None:
        self._at(key).counts.compile_failures += 1

    def evicted(self, key: ShapeKey) -> None:
        known = self._at(key)
        known.counts.evictions += 1
        known.evicted_at = self._clock()
        known.compiled = False

    async def report(
        self,
        bounds: CacheBounds,
        state: Callable[[ShapeKey], tuple[State, str]],
        differing: Mapping[ShapeKey, Differing] = MappingProxyType({}),
    ) -> ShapesReport:
        """Copies all counts; `state` returns a shape's present state and the reason for it.

        Yields to the event loop at intervals. Shapes that are dropped meanwhile are in the report,
        as they were when it began.
        """
        entries, others, forgotten = [*self._known.items()], self._others.copy(), self._forgotten
        shapes = {}
        for number, (key, known) in enumerate(entries, 1):
            now, reason = state(key)
            shapes[key] = known.record(now, reason, differing.get(key))
            if number % _COPIED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return ShapesReport(self._since, bounds, shapes, others, forgotten)

    def _at(self, key: ShapeKey) -> _Known:
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._kept:
                self._forget()
            known = self._known[key] = _Known()
        return known

    def _counts(self, key: ShapeKey) -> Counts:
        """The counts of a shape, or the sums if the shape was dropped meanwhile."""
        known = self._known.get(key)
        return self._others if known is None else known.counts

    def _forget(self) -> None:
        """Drops a quarter of the shapes at once, so that the cost of sorting is shared."""
        count = 1 + self._kept // 4
        least = sorted(self._known.items(), key=lambda entry: _worth(entry[1]))[:count]
        for key, _ in least:
            del self._known[key]
        self._others = total([self._others, *(known.counts for _, known in least)])
        self._forgotten += len(least)


def _worth(known: _Known) -> tuple[bool, int, float]:
    return known.compiled, known.counts.requests, known.counts.last_seen
