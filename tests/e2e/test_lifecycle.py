"""From start to Ctrl-C with the configuration that people get."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.calling import Client
from tests.e2e.client import spots_found
from tests.e2e.server import ROOT, family, running, stop
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def default_config() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_the_default_configuration_serves_spots_and_ctrl_c_leaves_nothing(
    tmp_path: Path, triton: Client
) -> None:
    """Without the face detector's files, which the first model's reason says in words."""
    default = default_config()
    for file in default["applications"][0]["args"]["models"][0]["source"]:
        file["url"] = file["url"].replace("storage.openvinotoolkit.org", "127.0.0.1:9")
    with running(default, tmp_path, {"ANYSHAPE_MODELS": str(tmp_path / "models")}) as server:
        reply = httpx.get(f"{server.url}/v2/models/face-detection")
        assert 503 == reply.status_code
        assert "cannot be downloaded" in reply.json()["error"]
        expected, found = spots_found(server.url)
        assert expected == found
        triton.call("sends_pictures", server.grpc)
        until(lambda: not server.processes("ray::IDLE"), "nobody waits for work")

        members = family(server.process)
        assert any("haproxy" in member.name() for member in members), "not the fast path"
        left = stop(server.process)

    assert [] == left, "had to be ended by force"
    assert not any(member.is_running() for member in members)
    for port in server.ports:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", port))


def test_the_check_stops_a_configuration_with_a_typo(tmp_path: Path) -> None:
    broken = default_config()
    broken["applications"][0]["args"]["models"][0]["shpae"] = "auto"
    path = tmp_path / "serve_config.yaml"
    path.write_text(json.dumps(broken))

    checked = subprocess.run(
        [sys.executable, "-m", "deployments.check", path],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert 1 == checked.returncode
    assert "applications[0].args.models[0].shpae" in checked.stdout
    assert "'shape'" in checked.stdout
