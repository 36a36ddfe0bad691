"""Draws the dashboard from a running Prometheus, without Grafana.

    python -m cluster.grafana.render --prometheus http://localhost:9090 --minutes 5 dashboard.png

It draws every panel with its title, unit and legend, but does not look like Grafana.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

DASHBOARD = Path(__file__).with_name("anyshape.json")
POINTS = 120
_SCALES = {"percentunit": (100.0, "%"), "s": (1000.0, "ms"), "bytes": (2.0**-20, "MiB")}
_NAMES = {"reqps": "requests/s", "ops": "1/s", "none": ""}


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    name: str
    times: list[float]
    values: list[float]


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def concrete(expression: str, rate_interval: str = "1m", model: str = ".*") -> str:
    """A panel's query with values for Grafana's variables. Raises ValueError for unknown ones."""
    replaced = expression.replace("$__rate_interval", rate_interval).replace("$model", model)
    if "$" in replaced:
        raise ValueError(f"{expression!r} has an unknown variable")
    return replaced


def legend(template: str, labels: Mapping[str, str]) -> str:
    """A series' name: replaces `{{label}}` by the label's value."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template).strip()


class Prometheus:
    """The HTTP API of a Prometheus. Its methods raise ValueError with its text about a query."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10)

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def instant(self, query: str) -> list[dict[str, Any]]:
        return self._result("/api/v1/query", {"query": query})

    def over(self, query: str, end: float, seconds: float) -> list[dict[str, Any]]:
        """Queries the `seconds` before `end`."""
        window = {"start": end - seconds, "end": end, "step": max(1.0, seconds / POINTS)}
        return self._result("/api/v1/query_range", {"query": query, **window})

    def _result(self, path: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        reply = self._http.get(path, params=dict(parameters)).json()
        if reply["status"] != "success":
            raise ValueError(f"{parameters['query']}: {reply['error']}")
        result: list[dict[str, Any]] = reply["data"]["result"]
        return result


def read(
    panel: Mapping[str, Any], prometheus: Prometheus, end: float, seconds: float, interval: str
) -> Iterator[Series]:
    for target in panel["targets"]:
        for found in prometheus.over(concrete(target["expr"], interval), end, seconds):
            name = legend(target["legendFormat"], found["metric"])
            times = [float(moment) for moment, _ in found["values"]]
            yield Series(name, times, [float(value) for _, value in found["values"]])


def render(
    dashboard: Mapping[str, Any],
    prometheus: Prometheus,
    path: Path,
    seconds: float,
    rate_interval: str,
) -> None:
    """Writes a PNG with the panels in Grafana's places."""
    from matplotlib.figure import Figure

    shown, end = panels(dashboard), time.time()
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = Figure(figsize=(18, height * 0.42), dpi=75)
    for panel in shown:
        place = panel["gridPos"]
        bottom = 1 - (place["y"] + place["h"]) / height
        box = (
            place["x"] / 24 + 0.03,
            bottom + 1.3 / height,
            place["w"] / 24 - 0.04,
            (place["h"] - 2.4) / height,
        )
        series = list(read(panel, prometheus, end, seconds, rate_interval))
        _draw(figure.add_axes(box), panel, series, end)
    figure.savefig(path)


def _draw(axes: Any, panel: Mapping[str, Any], series: Sequence[Series], end: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale, name = _SCALES.get(unit, (1.0, _NAMES.get(unit, unit)))
    axes.set_title(panel["title"] + (f", {name}" if name else ""), fontsize=10, loc="left")
    axes.tick_params(labelsize=7)
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, color="red")
        return
    if panel["type"] == "stat":
        last = " ".join(f"{one.values[-1] * scale:.4g}" for one in series)
        axes.text(0.5, 0.5, last, ha="center", va="center", transform=axes.transAxes, fontsize=16)
        axes.set(xticks=[], yticks=[])
        return
    _draw_lines(axes, panel, series, end, scale)
    # A little above Grafana's maximum, so that a line at the maximum is visible.
    top = panel["fieldConfig"]["defaults"].get("max")
    axes.set_ylim(bottom=0, top=None if top is None else top * scale * 1.02)
    axes.legend(fontsize=6, loc="upper left", ncols=1 + len(series) // 8)


def _draw_lines(
    axes: Any, panel: Mapping[str, Any], series: Sequence[Series], end: float, scale: float
) -> None:
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    if "stacking" in custom:
        times = sorted({moment for one in series for moment in one.times})
        known = [dict(zip(one.times, one.values, strict=True)) for one in series]
        rows = [[values.get(moment, 0.0) * scale for moment in times] for values in known]
        axes.stackplot([moment - end for moment in times], rows, labels=[s.name for s in series])
        return
    for one in series:
        when = [moment - end for moment in one.times]
        values = [value * scale for value in one.values]
        if custom.get("drawStyle") == "bars":
            axes.step(when, values, where="mid", label=one.name)
        else:
            axes.plot(when, values, label=one.name, marker="." if len(when) < 3 else None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m cluster.grafana.render", description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG file to write")
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its URL")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate-interval", default="1m", help="a value for Grafana's variable")
    options = parser.parse_args(arguments)
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    with Prometheus(options.prometheus) as prometheus:
        render(dashboard, prometheus, options.path, options.minutes * 60, options.rate_interval)


if __name__ == "__main__":
    main()
