"""Telemetry that records its calls for tests."""

from collections import Counter

from deployments.observability.metrics import Metric, Telemetry


class Recorded(Telemetry):
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.observed: dict[tuple[str, ...], list[float]] = {}

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        assert "counter" == metric.kind
        assert len(metric.labels) == len(labels)
        self.counts[(metric.name, *labels)] += int(by)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        assert "histogram" == metric.kind
        assert len(metric.labels) == len(labels)
        assert value >= 0
        self.observed.setdefault((metric.name, *labels), []).append(value)

    def of(self, metric: Metric) -> dict[tuple[str, ...], int]:
        """The counter by its labels, or the number of the histogram's values."""
        lengths = {key: len(values) for key, values in self.observed.items()}
        told = {**self.counts, **lengths}
        return {key[1:]: count for key, count in told.items() if key[0] == metric.name}
