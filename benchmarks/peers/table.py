"""The medians over the repetitions, and their table."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeAlias

from benchmarks.peers.measuring import Row

Measured: TypeAlias = tuple[str, str, Row]  # workload, arm, numbers
COLUMNS: Final = {
    "requests_per_s": ("req/s", ".1f"),
    "of_bare": ("of bare", ".2f"),
    "spread": ("spread", ".0%"),
    "p50_ms": ("p50 ms", ".1f"),
    "p95_ms": ("p95 ms", ".1f"),
    "p99_ms": ("p99 ms", ".1f"),
    "cpu_ms_per_request": ("CPU ms/req", ".1f"),
    "resident_mb": ("MB", ".0f"),
    "errors": ("errors", ".0f"),
}


def summary(measured: Iterable[Measured]) -> list[Row]:
    """The medians of each workload and arm, the sum of errors, and the throughput's spread.

    The spread is the highest minus the lowest throughput, relative to the median.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for workload, arm, row in measured:
        groups[workload, arm].append(row)
    medians = {key: _median(group) for key, group in groups.items()}
    for (workload, _), row in medians.items():
        if limit := medians.get((workload, "bare")):
            row["of_bare"] = row["requests_per_s"] / limit["requests_per_s"]
    rows = [{"workload": workload, "arm": arm, **row} for (workload, arm), row in medians.items()]
    return sorted(rows, key=lambda row: (row["workload"], -row["requests_per_s"]))


def table(results: list[Row]) -> str:
    """The table in Markdown; missing values are empty."""
    heads = ["workload", "arm", *(head for head, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results:
        numbers = [
            format(row[key], form) if key in row else "" for key, (_, form) in COLUMNS.items()
        ]
        lines.append(f"| {' | '.join([row['workload'], row['arm'], *numbers])} |")
    return "\n".join(lines)


def _median(group: list[Row]) -> Row:
    row: Row = {key: statistics.median(one[key] for one in group) for key in group[0]}
    rates = [one["requests_per_s"] for one in group]
    row["spread"] = (max(rates) - min(rates)) / max(row["requests_per_s"], 1e-9)
    return row | {"errors": sum(one["errors"] for one in group)}
