"""Finds the names in a PromQL query, by enough of its grammar for the dashboard's queries."""

import re
from dataclasses import dataclass

from deployments.observability.metrics import METRICS, Metric

RAYS_LABELS = frozenset({"application", "deployment", "replica", "instance"})
_SELECTED = re.compile(r"\b(ray_\w+)\b(?:{([^}]*)})?")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_PARTS = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Named:
    """A metric of a query, and the labels that the query uses."""

    metric: str
    labels: frozenset[str]


def named(query: str) -> list[Named]:
    """Each metric with the labels in its braces and those that the query groups by."""
    grouped = {
        label.strip() for labels in _GROUPED.findall(query) for label in labels.split(",") if label
    }
    return [
        Named(metric, frozenset(grouped | set(re.findall(r"(\w+)\s*[=!]", selectors))))
        for metric, selectors in _SELECTED.findall(query)
    ]


def problems(query: str) -> list[str]:
    """This project's metrics and labels in a query that no declaration has."""
    found = []
    for one in named(query):
        if not one.metric.startswith("ray_anyshape_"):
            continue
        if (metric := declared(one.metric)) is None:
            found.append(f"there is no metric {one.metric}")
            continue
        known = {*metric.labels, *RAYS_LABELS, *(["le"] if one.metric.endswith("_bucket") else [])}
        found += [f"{one.metric} has no label {label}" for label in sorted(one.labels - known)]
    return found


def declared(exported: str) -> Metric | None:
    """The declaration behind an exported series."""
    for metric in METRICS:
        parts = _PARTS if metric.kind == "histogram" else ("",)
        if exported in {f"{metric.exported_name}{part}" for part in parts}:
            return metric
    return None
