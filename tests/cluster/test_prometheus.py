"""Prometheus' and Grafana's files: what they name is what the cluster has."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray._private import ray_constants

from tests.cluster.files import CLUSTER, document

CONFIGS = ["prometheus/prometheus.yml", "prometheus/compose.yml"]
PROMTOOL = shutil.which("promtool")


def promtool(config: Path) -> tuple[int, str]:
    assert PROMTOOL is not None
    # Only the syntax: what a Ray of this machine has listed, or has left of it, is not asked.
    command = [PROMTOOL, "check", "config", "--syntax-only", str(config)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def only_job(config: str) -> Any:
    (job,) = document(config)["scrape_configs"]
    return job


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt-get install prometheus")
@pytest.mark.parametrize("config", CONFIGS)
def test_prometheus_takes_it(config: str, tmp_path: Path) -> None:
    code, said = promtool(CLUSTER / config)
    assert 0 == code, said
    broken = tmp_path / "prometheus.yml"
    broken.write_text((CLUSTER / config).read_text().replace("scrape_interval", "scrape_intervall"))
    code, said = promtool(broken)
    assert (1, True) == (code, "scrape_intervall not found" in said)


def test_rays_list_of_nodes_is_read_where_ray_writes_it() -> None:
    (files,) = only_job("prometheus/prometheus.yml")["file_sd_configs"]
    name = ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE
    assert [f"/tmp/ray/{name}"] == files["files"]


def test_the_containers_are_asked_at_the_port_that_ray_has_there() -> None:
    services = document("docker/compose.yaml")["services"]
    (names,) = only_job("prometheus/compose.yml")["dns_sd_configs"]
    assert ["head", "worker"] == names["names"]
    for name in names["names"]:
        assert f"--metrics-export-port={names['port']}" in services[name]["command"]


def test_the_pods_are_asked_at_a_port_that_they_have() -> None:
    monitor = document("prometheus/podmonitor.yaml")
    assert ("monitoring.coreos.com/v1", "PodMonitor") == (monitor["apiVersion"], monitor["kind"])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    cluster = document("kuberay/rayservice.yaml")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= group["template"]["metadata"]["labels"].items()
        (container,) = group["template"]["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    services = document("docker/compose.yaml")["services"]
    (source,) = document("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    (provider,) = document("grafana/provisioning/dashboards/anyshape.yaml")["providers"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert "http://prometheus:9090" == source["url"]
    assert services["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    assert "/etc/grafana/provisioning" == mounts["../grafana/provisioning"]
    shown = mounts["../grafana/anyshape.json"]
    assert f"{provider['options']['path']}/anyshape.json" == shown
    assert shown == services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]


@pytest.mark.parametrize("config", CONFIGS)
def test_grafana_knows_how_often_prometheus_asks(config: str) -> None:
    (source,) = document("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["jsonData"]["timeInterval"] == document(config)["global"]["scrape_interval"]
