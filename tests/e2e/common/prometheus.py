"""A real Prometheus with the project's configuration, which scrapes a server's metrics."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests import waiting
from tests.cluster.files import document
from tests.e2e.server import NO_TLS, Server, free_ports

PROMETHEUS = shutil.which("prometheus")
PATIENCE_S = 60.0

needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus"
)


def metrics_address(server: Server) -> str:
    """The host and port at which the server's node exports metrics.

    Ray writes them to a file too, but all clusters of the machine overwrite it.
    """
    for process in server.processes("ray::DashboardAgent"):
        for address in _listening(process):
            with contextlib.suppress(httpx.HTTPError):
                page = httpx.get(f"http://{address}/metrics", timeout=5, verify=NO_TLS)
                if "\nray_" in page.text:
                    return address
    raise AssertionError("no process of the server exports metrics")


def _listening(process: psutil.Process) -> list[str]:
    connections = process.net_connections("tcp")
    return [
        f"{c.laddr.ip.replace('::', '127.0.0.1').replace('0.0.0.0', '127.0.0.1')}:{c.laddr.port}"
        for c in connections
        if c.status == psutil.CONN_LISTEN
    ]


@contextlib.contextmanager
def prometheus(target: str, directory: Path) -> Iterator[str]:
    """Starts a Prometheus that scrapes this target once a second; yields its URL."""
    assert PROMETHEUS is not None
    # As Ray writes it.
    nodes = directory / "nodes.json"
    nodes.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target]}]))
    config: Any = document("prometheus/prometheus.yml")
    config["global"]["scrape_interval"] = "1s"
    config["global"]["scrape_timeout"] = "1s"
    (config["scrape_configs"][0]["file_sd_configs"][0])["files"] = [str(nodes)]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [
        PROMETHEUS,
        f"--config.file={path}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _ready(url), "Prometheus is ready")
        yield url
    finally:
        process.kill()
        process.wait(10)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/-/ready", timeout=5, verify=NO_TLS).status_code == 200
    return False


def until(true: Callable[[], bool], what: str) -> None:
    """Polls: no event reports that Ray has exported a metric, or that Prometheus has scraped it."""
    waiting.until(true, what, patience_s=PATIENCE_S, every_s=0.3)
