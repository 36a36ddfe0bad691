"""The report on the comparison with Triton in Markdown."""

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.measuring import Row
from benchmarks.peers.triton.arms import ARMS
from benchmarks.peers.triton.goals import verdicts
from benchmarks.peers.triton.loads import LOADS
from benchmarks.report import described
from benchmarks.results import markdown, medians

# The head of a column, the key of its value, and its format.
COLUMNS: Final = (
    ("req/s", "requests_per_s", ".1f"),
    ("spread", "spread", ".0%"),
    ("p50 ms", "p50_ms", ".1f"),
    ("p99 ms", "p99_ms", ".1f"),
    ("max ms", "max_ms", ".1f"),
    ("beside/s", "beside_per_s", ".1f"),
    ("promotions", "promotions", ".0f"),
    ("CPU ms/req", "cpu_ms_per_request", ".2f"),
    ("MB", "resident_mb", ".0f"),
    ("errors", "errors", ".0f"),
)


def report(run: dict[str, Any]) -> str:
    rows = run["repetitions"]
    parts = [described(run), table(rows), verdicts(rows)]
    parts += [f"Left out: {name}: {reason}" for name, reason in run["left_out"].items()]
    return "\n\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """The medians of each workload and arm; missing values are blank."""
    lines = []
    for load in LOADS:
        for arm in ARMS:
            group = [row for row in rows if (row["workload"], row["arm"]) == (load.name, arm)]
            if group:
                values = medians(group)
                shown = [format(values[k], how) if k in values else "" for _, k, how in COLUMNS]
                lines.append([load.name, arm, *shown])
    return markdown(["workload", "arm", *(head for head, _, _ in COLUMNS)], 2, lines)
