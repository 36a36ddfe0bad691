"""The dashboard on a running server: every panel's query, asked of a real Prometheus."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from cluster.grafana.render import DASHBOARD, Prometheus, concrete, panels, render
from tests.e2e.client import infer
from tests.e2e.common.prometheus import metrics_address, needs_prometheus, prometheus, until
from tests.e2e.server import NO_TLS, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), needs_prometheus]

RATE_INTERVAL = "30s"
SIZES = 6  # more than `spots-blocking` keeps
# Nothing crosses between nodes here, and no arena of half a GiB gets full; no model is compiled
# wrongly.
NOTHING_TO_SHOW = {"Fallbacks by reason", "Compiled wrongly"}
SHOWN = [panel for panel in panels(json.loads(DASHBOARD.read_text())) if panel["title"]]


def send(server: Server, first: int) -> None:
    """Requests of every kind that a panel tells apart, some with sizes that were not there yet."""
    for size in range(first, first + SIZES):
        picture = np.zeros((1, 3, 64, size), np.float32)
        infer(server.url, "spots", {"data": picture})
        infer(server.url, "spots-blocking", {"data": picture})
    over = {"inputs": [{"name": "data", "datatype": "FP32", "shape": [1] * 9, "data": [0.0]}]}
    answer = httpx.post(f"{server.url}/v2/models/spots/infer", json=over, timeout=30, verify=NO_TLS)
    assert 413 == answer.status_code, answer.text
    rows = {"instances": [[0.0] * 10]}
    httpx.post(
        f"{server.url}/v1/models/add-one:predict", json=rows, timeout=30, verify=NO_TLS
    ).raise_for_status()


@pytest.fixture(scope="module")
def watching(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen requests come, and more of them, so that there are rates."""
    directory = tmp_path_factory.mktemp("prometheus")
    with prometheus(metrics_address(server), directory) as url, Prometheus(url) as told:
        for first in (200, 300):
            wanted = _requests(told) + SIZES
            send(server, first)
            until(partial(_asked, told, wanted), "the requests are counted")
        until(lambda: not _empty(told), "all panels show something")
        yield told


def _asked(told: Prometheus, wanted: float) -> bool:
    return _requests(told) >= wanted


def _requests(told: Prometheus) -> float:
    found = told.instant('sum(ray_anyshape_requests_total{model="spots-blocking"})')
    return sum(float(series["value"][1]) for series in found)


def _empty(told: Prometheus) -> set[str]:
    """The titles of panels with a query that gives nothing."""
    return {
        panel["title"]
        for panel in SHOWN
        for target in panel["targets"]
        if not told.instant(concrete(target["expr"], RATE_INTERVAL))
    } - NOTHING_TO_SHOW


@pytest.mark.parametrize("panel", SHOWN, ids=[f"{panel['id']}" for panel in SHOWN])
def test_prometheus_understands_and_answers_the_panel(panel: Any, watching: Prometheus) -> None:
    for target in panel["targets"]:
        found = watching.instant(concrete(target["expr"], RATE_INTERVAL))
        values = [float(series["value"][1]) for series in found]
        if panel["title"] in NOTHING_TO_SHOW:
            continue
        assert values
        assert any(np.isfinite(values)), target["expr"]


def test_the_dashboard_can_be_drawn(watching: Prometheus, tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    render(dashboard, watching, tmp_path / "dashboard.png", 60, RATE_INTERVAL)
    picture = cv2.imread(str(tmp_path / "dashboard.png"))
    assert picture is not None
    assert picture.std() > 1
