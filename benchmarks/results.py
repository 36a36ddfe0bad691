"""The medians of the turns, and their table."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.measuring import Row
from benchmarks.workloads import ARMS, WORKLOADS

# The head of a column, the key of its value, and its format.
COLUMNS = (
    ("req/s", "requests_per_s", ".1f"),
    ("spread", "spread", ".0%"),
    ("p50 ms", "p50_ms", ".1f"),
    ("p95 ms", "p95_ms", ".1f"),
    ("p99 ms", "p99_ms", ".1f"),
    ("compiles", "compiles", ".0f"),
    ("mean batch", "mean_batch", ".1f"),
    ("CPU ms/req", "cpu_ms_per_request", ".2f"),
    ("MB", "resident_mb", ".0f"),
    ("errors", "errors", ".0f"),
)


def summary(rows: Sequence[Row]) -> list[Row]:
    """The medians, the throughput's spread and the sum of errors of each workload and arm."""
    grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["workload"], row["arm"]].append(row)
    return [
        {"workload": workload.name, "arm": arm, **medians(grouped[workload.name, arm])}
        for workload in WORKLOADS
        for arm in ARMS
        if (workload.name, arm) in grouped
    ]


def medians(group: Sequence[Row]) -> Row:
    """The medians of numbers in all rows, the throughput's spread and the sum of errors."""
    numbers = [key for key, value in group[0].items() if isinstance(value, (int, float))]
    shared = [key for key in numbers if all(key in row for row in group)]
    found: Row = {key: statistics.median(row[key] for row in group) for key in shared}
    if "requests_per_s" in found:
        low, high = quartiles([row["requests_per_s"] for row in group])
        found["spread"] = (high - low) / (found["requests_per_s"] or 1)
    found["errors"] = sum(row["errors"] for row in group)
    return found


def quartiles(numbers: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    low, _, high = statistics.quantiles(numbers, method="inclusive")
    return low, high


def table(results: Sequence[Row]) -> str:
    """The medians in Markdown; missing values are blank."""
    heads = ["workload", "arm", *(head for head, _, _ in COLUMNS)]
    lines = []
    for row in results:
        cells = [format(row[key], how) if key in row else "" for _, key, how in COLUMNS]
        lines.append([row["workload"], row["arm"], *cells])
    return markdown(heads, 2, lines)


def markdown(heads: Sequence[str], texts: int, lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the columns after the first `texts` are numbers, aligned right."""
    ruler = ["---"] * texts + ["---:"] * (len(heads) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ruler, *lines))
