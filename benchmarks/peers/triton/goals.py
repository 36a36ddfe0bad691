"""The goals of the comparison with Triton, and the verdicts on them."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measuring import Row
from benchmarks.peers.triton import loads
from benchmarks.peers.triton.arms import CONFIGURATIONS, DYNAMIC, STATIC
from benchmarks.plot import Bar
from benchmarks.results import markdown
from benchmarks.verdict import HEADS, cells
from benchmarks.workloads import Workload

BOTH: Final = (STATIC, DYNAMIC)


@dataclass(frozen=True)
class Goal:
    """A ratio to reach, of this project's `value` in a workload.

    It is relative to the best rival in the same workload or, without rivals, to this project in the
    workload `than`.
    """

    name: str
    must: float
    aim: float
    workload: Workload
    rivals: tuple[str, ...] = ()
    than: Workload | None = None
    value: str = "requests_per_s"
    lower: bool = False


def _known(name: str, beside: Workload) -> Iterator[Goal]:
    """Goals for a known shape's latencies while other shapes arrive, relative to those alone."""
    for value, shown, must, aim in (("p99_ms", "p99", 1.3, 1.1), ("max_ms", "maximum", 2, 1.5)):
        yield Goal(
            f"known shape's {shown} {name} / without",
            must,
            aim,
            beside,
            than=loads.KNOWN_ALONE,
            value=value,
            lower=True,
        )


GOALS: Final = (
    Goal("Zipf, first 6 s", 0.9, 1.0, loads.ZIPF_FIRST, (DYNAMIC,)),
    Goal("Zipf, later", 1.0, 1.1, loads.ZIPF_LATER, (DYNAMIC,)),
    Goal(
        "Zipf, first 6 s: p99", 1.1, 0.9, loads.ZIPF_FIRST, (DYNAMIC,), value="p99_ms", lower=True
    ),
    Goal("Zipf, later: p99", 1.1, 0.9, loads.ZIPF_LATER, (DYNAMIC,), value="p99_ms", lower=True),
    Goal("every request a new shape", 1.0, 1.2, loads.NEW_SHAPES, (DYNAMIC,)),
    *(Goal(load.name, 1.0, 1.05, load, BOTH) for load in loads.ONE_SHAPE_LOADS),
    Goal("two shapes alternating", 1.0, 1.05, loads.TWO_SHAPES, BOTH),
    Goal("tiny model, 1 client", 0.40, 0.55, loads.TINY_1, BOTH),
    Goal("tiny model, 64 clients", 0.20, 0.35, loads.TINY_64, BOTH),
    *_known("with 20 new shapes a second", loads.KNOWN_BESIDE_NEW),
    *_known("while shapes are promoted", loads.KNOWN_BESIDE_PROMOTED),
    Goal(
        "memory after 1,000 shapes / after 100",
        1.15,
        1.05,
        loads.MEMORY_MANY,
        than=loads.MEMORY_FEW,
        value="resident_mb",
        lower=True,
    ),
)


@dataclass(frozen=True)
class Compared:
    """The ratios of the turns, and the rival."""

    numbers: list[float]
    rival: str = ""


def compared(goal: Goal, ours: str, rows: Sequence[Row]) -> Compared:
    """The ratios of a goal, to the rival with the worst median."""
    if goal.than is not None:
        return Compared(_ratios(rows, goal, (ours, goal.workload), (ours, goal.than)))
    against = [
        Compared(_ratios(rows, goal, (ours, goal.workload), (rival, goal.workload)), rival)
        for rival in goal.rivals
    ]
    measured = [one for one in against if one.numbers]
    worst = max if goal.lower else min
    return worst(measured, key=lambda one: statistics.median(one.numbers), default=Compared([]))


def _ratios(
    rows: Sequence[Row], goal: Goal, first: tuple[str, Workload], second: tuple[str, Workload]
) -> list[float]:
    """The ratio of each turn that measured both."""
    ours, theirs = (
        {
            (row["repetition"], row["turn"]): row[goal.value]
            for row in rows
            if (row["arm"], row["workload"]) == (arm, workload.name)
        }
        for arm, workload in (first, second)
    )
    return [ours[turn] / theirs[turn] for turn in ours if theirs.get(turn)]


def verdicts(rows: Sequence[Row]) -> str:
    """The table of measured goals for each configuration of this project."""
    lines = [
        [goal.name, f"{ours} / {found.rival or ours}", *cells(goal, found.numbers)]
        for ours in CONFIGURATIONS
        for goal in GOALS
        if (found := compared(goal, ours, rows)).numbers
    ]
    return markdown(["goal", "arms", *HEADS], 3, lines)


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The medians of the same goals."""
    return [
        Bar(goal.name, ours, statistics.median(found.numbers), goal.must, goal.lower)
        for ours in CONFIGURATIONS
        for goal in GOALS
        if (found := compared(goal, ours, rows)).numbers
    ]
