"""Compares the measurements with the goals of issue 3's "Done when"."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub, truediv
from typing import Final, Protocol

from benchmarks.measuring import Row
from benchmarks.results import markdown, quartiles
from benchmarks.special import KNOWN_SHAPE, MEMORY
from benchmarks.workloads import ANYSHAPE, BARE, CAREFUL, DOCUMENTED, ONE_SHAPE, RELOAD


class Limits(Protocol):
    """What a median must reach and aims at: at least, or at most if `lower` is better."""

    @property
    def must(self) -> float: ...
    @property
    def aim(self) -> float: ...
    @property
    def lower(self) -> bool: ...


@dataclass(frozen=True)
class Goal:
    """A number that must be at least `must`, or at most if `lower` is better.

    With two arms it compares `value` of the first with that of the second, in one workload and
    turn. Without arms it is the ratio of a special measurement.
    """

    name: str
    must: float
    aim: float
    workload: str
    arms: tuple[str, str] | None = None
    value: str = "requests_per_s"
    against: Callable[[float, float], float] = truediv
    lower: bool = False


ONE_CLIENT: Final = "one shape, 1 client"
TWO_SHAPES: Final = "two shapes alternating, 16 clients"
NEW_SHAPES: Final = "every request a new shape, 16 clients"
TINY_MODEL: Final = "tiny model, 64 clients"
HEADS: Final = ("verdict", "median", "quartiles", "must be", "aim")
F_B: Final = (ANYSHAPE, CAREFUL)
F_C: Final = (ANYSHAPE, DOCUMENTED)
F_E: Final = (ANYSHAPE, RELOAD)

GOALS: Final = (
    Goal("one shape, 16 clients: f / a", 0.70, 0.85, ONE_SHAPE.name, (ANYSHAPE, BARE)),
    Goal("one shape, 16 clients: f / c", 3.5, 5, ONE_SHAPE.name, F_C),
    Goal(
        "one shape, 1 client: p50(f) - p50(b), ms",
        1.5,
        0.7,
        ONE_CLIENT,
        F_B,
        "p50_ms",
        sub,
        lower=True,
    ),
    Goal("two shapes alternating: f / a", 0.70, 0.85, TWO_SHAPES, (ANYSHAPE, BARE)),
    Goal("two shapes alternating: f / e", 10, 13, TWO_SHAPES, F_E),
    Goal("every request a new shape: f / e", 8, 12, NEW_SHAPES, F_E),
    Goal(
        "known shape's p99 with 20 new shapes a second / without",
        2.0,
        1.3,
        KNOWN_SHAPE,
        lower=True,
    ),
    Goal("tiny model, 64 clients: f / c", 4, 8, TINY_MODEL, F_C),
    Goal("JPEG, 16 clients: f / b", 0.75, 1.0, "JPEG, 16 clients", F_B),
    Goal("u8, 16 clients: f / b", 0.75, 1.0, "u8, 16 clients", F_B),
    Goal("memory after 1,000 shapes / after 100", 1.15, 1.05, MEMORY, lower=True),
)


def reached(goal: Goal, rows: Sequence[Row], special: Sequence[Row]) -> list[float]:
    """The number of each turn that measured both arms."""
    if goal.arms is None:
        return [row["ratio"] for row in special if row["measurement"] == goal.workload]
    first, second = (
        {
            (row["repetition"], row["turn"]): row[goal.value]
            for row in rows
            if (row["workload"], row["arm"]) == (goal.workload, arm)
        }
        for arm in goal.arms
    )
    return [goal.against(first[n], second[n]) for n in first if second.get(n)]


def judged(goal: Limits, numbers: Sequence[float]) -> str:
    """The verdict on the median; for a missed goal with the relative distance."""
    if not numbers:
        return "not measured"
    median = statistics.median(numbers)
    if median <= goal.aim if goal.lower else median >= goal.aim:
        return "met, aim reached"
    if median <= goal.must if goal.lower else median >= goal.must:
        return "met"
    return f"**missed** by {abs(median / goal.must - 1):.0%}"


def verdicts(rows: Sequence[Row], special: Sequence[Row]) -> str:
    """All goals as a Markdown table, with the median and the quartiles of the turns."""
    lines = [[goal.name, *cells(goal, reached(goal, rows, special))] for goal in GOALS]
    return markdown(["goal", *HEADS], 2, lines)


def cells(goal: Limits, numbers: Sequence[float]) -> list[str]:
    """The cells under HEADS: the verdict, its numbers and the limits."""
    middle = f"{statistics.median(numbers):.2f}" if numbers else ""
    ends = "{:.2f} to {:.2f}".format(*quartiles(numbers)) if numbers else ""
    limit = "at most" if goal.lower else "at least"
    return [judged(goal, numbers), middle, ends, f"{limit} {goal.must:g}", f"{goal.aim:g}"]
