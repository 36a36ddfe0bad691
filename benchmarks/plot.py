"""Plots the results as bars: `python -m benchmarks.plot results.json results.png`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.figure import Figure

from benchmarks.measuring import Row
from benchmarks.workloads import ANYSHAPE, ARMS, BARE, CAREFUL, DOCUMENTED, MODEL_SERVER, RELOAD

COLOURS: Final = {
    BARE: "#9a9a9a",
    CAREFUL: "#8fb8de",
    RELOAD: "#e0a458",
    MODEL_SERVER: "#c97b4a",
    DOCUMENTED: "#7d5ba6",
    ANYSHAPE: "#c8553d",
}
LABELS: Final = {
    BARE: "a  OpenVINO alone",
    CAREFUL: "b  one process, by hand",
    RELOAD: "e  reload for each change",
    MODEL_SERVER: "e' Model Server's steps",
    DOCUMENTED: "c  Ray Serve as documented",
    ANYSHAPE: "f  anyshape",
}
BAR: Final = 0.8  # the height of a bar, relative to its space


def figure(results: Sequence[Row]) -> Figure:
    """A bar for each workload and arm: the throughput relative to that of the best arm."""
    workloads = list(dict.fromkeys(row["workload"] for row in results))
    drawn = Figure(figsize=(10, 0.6 + 0.24 * (len(results) + len(workloads))), layout="constrained")
    axes = drawn.add_subplot()
    place, ticks = 0.0, []
    for workload in workloads:
        rows = [row for row in results if row["workload"] == workload]
        best = max(row["requests_per_s"] for row in rows) or 1
        ticks.append(place + (len(rows) - 1) / 2)
        for row in rows:
            rate = row["requests_per_s"]
            axes.barh(place, rate / best, height=BAR, color=COLOURS[row["arm"]])
            axes.text(rate / best + 0.01, place, _rate(rate), va="center", fontsize=8)
            place += 1
        place += 1
    axes.set_yticks(ticks, workloads)
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("requests per second, as a part of the workload's best arm")
    axes.spines[["top", "right"]].set_visible(False)
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in results)]
    patches = [matplotlib.patches.Patch(color=COLOURS[arm], label=LABELS[arm]) for arm in arms]
    drawn.legend(handles=patches, loc="outside upper center", ncols=3, frameon=False)
    return drawn


@dataclass(frozen=True)
class Bar:
    """A ratio of `arm`, which must be at least `must`, or at most if `lower` is better."""

    name: str
    arm: str
    ratio: float
    must: float
    lower: bool


def ratios(bars: Sequence[Bar]) -> Figure:
    """A bar for each ratio, with its number and a line at the limit."""
    drawn = Figure(figsize=(10, 0.8 + 0.26 * len(bars)), layout="constrained")
    axes = drawn.add_subplot()
    for place, bar in enumerate(bars):
        reached = bar.ratio <= bar.must if bar.lower else bar.ratio >= bar.must
        colour = COLOURS[ANYSHAPE if reached else BARE]
        axes.barh(place, bar.ratio, height=BAR, color=colour)
        axes.vlines(bar.must, place - BAR / 2, place + BAR / 2, color="black")
        limit = "at most" if bar.lower else "at least"
        shown = f"{bar.ratio:.2f} ({limit} {bar.must:g})"
        axes.text(max(bar.ratio, bar.must) + 0.02, place, shown, va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [f"{bar.name} ({bar.arm})" for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("this project against Triton; the last ones against itself")
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def save_ratios(bars: Sequence[Bar], picture: Path) -> None:
    ratios(bars).savefig(picture, dpi=150)


def _rate(per_second: float) -> str:
    return f"{per_second:.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def save(results: Path, picture: Path) -> None:
    figure(json.loads(results.read_text())["results"]).savefig(picture, dpi=150)


if __name__ == "__main__":
    save(Path(sys.argv[1]), Path(sys.argv[2]))
