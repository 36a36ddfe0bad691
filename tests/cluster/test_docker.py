"""The image and the compose file, as far as that goes without Docker.

What stands in them is run where it can be: the health checks, and Ray's reading of its options.
"""

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import start
from ray.serve.scripts import deploy, run

from deployments.check import load
from tests.cluster.files import CLUSTER, ROOT, document
from tests.e2e.server import ray_environment

DOCKERFILE = CLUSTER / "docker" / "Dockerfile"
COMPOSE = "docker/compose.yaml"
HADOLINT = Path(sys.executable).with_name("hadolint")
MiB = 2**20
SIZES = {"m": MiB, "g": 2**30}


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words, without their flags; lists in JSON are read."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    found = []
    for line in filter(str.strip, text.splitlines()):
        name, rest = line.split(maxsplit=1)
        rest = re.sub(r"^(--\S+\s+)*", "", rest.strip())
        found.append([name, *(json.loads(rest) if rest.startswith("[") else shlex.split(rest))])
    return found


def copied() -> list[tuple[str, str]]:
    """What is copied from the repository, and where to."""
    whole = [
        line for line in DOCKERFILE.read_text("utf-8").splitlines() if "COPY --from" not in line
    ]
    lines = [shlex.split(line)[1:] for line in whole if line.startswith("COPY ")]
    return [(source, words[-1]) for words in lines for source in words[:-1]]


@pytest.fixture
def services() -> Any:
    return document(COMPOSE)["services"]


# The Dockerfile ---------------------------------------------------------------------------------


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint has no build for this machine")
def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    ran = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (0, "") == (ran.returncode, ran.stdout)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace("USER 1000", "USER root"))
    broken = subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True, check=False)
    assert 0 != broken.returncode


def test_the_base_is_pinned_and_the_image_runs_as_a_user_of_its_own() -> None:
    lines = instructions()
    assert ["ARG", "BASE=python:3.11-slim-bookworm"] in lines
    assert all(line[1] == "${BASE}" for line in lines if line[0] == "FROM")
    assert [["USER", "1000"]] == [line for line in lines if line[0] == "USER"]
    assert "USER" == next(line[0] for line in reversed(lines) if line[0] in ("USER", "FROM"))


def test_everything_that_is_copied_is_in_git_and_sent_to_the_builder() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = listed.stdout.splitlines()
    assert copied()
    for source, _ in copied():
        of_it = [file for file in files if file == source or file.startswith(source)]
        assert of_it, f"{source} is not in git"
        assert all(sent(file) for file in of_it)
    assert not sent("README.md.bak")
    assert not sent(".git/config")
    assert not sent("deployments/model/__pycache__/x.pyc")


def sent(file: str) -> bool:
    """Whether .dockerignore lets a file through: the last pattern that fits it decides."""
    result = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = file.split("/")
        whole = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(path == pattern or pattern == "*" for path in whole)
        if fits:
            result = line.startswith("!")
    return result


def test_the_image_is_built_from_the_constraints() -> None:
    (install,) = (line for line in instructions() if line[1].endswith("/pip"))
    assert ["-c", "constraints.txt", ".[gs,s3]"] == install[-3:]
    assert {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "deployments/"} <= {
        source for source, _ in copied()
    }


def test_ray_is_started_with_its_variables() -> None:
    set_to = dict(line[1].split("=", 1) for line in instructions() if line[0] == "ENV")
    assert ray_environment().items() <= set_to.items()


def test_the_default_command_serves_the_configuration_in_the_image() -> None:
    (command,) = (line[1:] for line in instructions() if line[0] == "CMD")
    assert ["serve", "run"] == command[:2]
    run.make_context("run", command[2:])
    assert in_image(command[2]) == "serve_config.yaml"


def in_image(place: str) -> str:
    """The file of the repository that lies there."""
    found = [s for s, to in copied() if to.endswith("/") and f"{to}{Path(s).name}" == place]
    (source,) = found
    return source


# Health -----------------------------------------------------------------------------------------


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that gives every request this status, its port, and the paths that were asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def health_checks() -> dict[str, tuple[list[str], str]]:
    """The commands that ask for health, and the path that each has to ask for, with its port."""
    image = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE.read_text(), re.M | re.S)
    assert image is not None
    nodes = document(COMPOSE)["services"]["worker"]["healthcheck"]["test"]
    assert "CMD" == nodes[0]
    return {
        "image": (json.loads(image[1]), "8000/v2/health/live"),
        "node": (nodes[1:], "52365/api/healthz"),
    }


@pytest.mark.parametrize("name", ["image", "node"])
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_health_check_tells_what_the_server_says(name: str, status: int, healthy: bool) -> None:
    command, asks = health_checks()[name]
    port, path = asks.split("/", maxsplit=1)
    with answering(status) as (real_port, asked):
        words = [word.replace(f":{port}/", f":{real_port}/") for word in command]
        assert "python" == words[0]
        ran = subprocess.run([sys.executable, *words[1:]], capture_output=True, check=False)
    assert healthy == (ran.returncode == 0)
    assert [f"/{path}"] == asked


# Compose ----------------------------------------------------------------------------------------


@pytest.fixture
def compose_spec() -> Any:
    return pytest.importorskip("compose_spec", reason="compose-spec has builds for Linux only")


def test_compose_takes_the_file(compose_spec: Any) -> None:
    compose_spec.PyCompose.from_json(json.dumps(document(COMPOSE)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("mem_limit", "mem_limits"), ("depends_on", "depend_on"), ("service_healthy", "healthy")],
)
def test_compose_refuses_a_mistake(compose_spec: Any, right: str, wrong: str) -> None:
    text = json.dumps(document(COMPOSE)).replace(f'"{right}"', f'"{wrong}"')
    with pytest.raises(ValueError, match=wrong):
        compose_spec.PyCompose.from_json(text)


def test_what_compose_mounts_and_builds_is_there(services: Any) -> None:
    volumes = document(COMPOSE)["volumes"]
    here = CLUSTER / "docker"
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (here / source).exists() if source.startswith(".") else source in volumes
    build = services["head"]["build"]
    assert (here / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).samefile(DOCKERFILE)


def test_ray_knows_the_options_of_its_commands(services: Any) -> None:
    for name, is_head in (("head", True), ("worker", False)):
        command = services[name]["command"]
        assert ["ray", "start"] == command[:2]
        options = start.make_context("start", command[2:]).params
        assert (is_head, True) == (options["head"], options["block"])
        assert (52365, 8080) == (
            options["dashboard_agent_listen_port"],
            options["metrics_export_port"],
        )
    assert 0 == options_of(services["head"])["num_cpus"]


def options_of(service: Any) -> dict[str, Any]:
    return dict(start.make_context("start", service["command"][2:]).params)


def test_the_configuration_for_several_nodes_is_deployed(services: Any) -> None:
    command = services["deploy"]["command"]
    assert ["serve", "deploy"] == command[:2]
    deploy.make_context("deploy", command[2:])
    assert "cluster/serve_config.yaml" == in_image(command[-1])


def test_replicas_fit_on_the_workers(services: Any) -> None:
    (application,) = load(CLUSTER / "serve_config.yaml")["applications"]
    wanted = sum(
        d["ray_actor_options"]["num_cpus"] * d["autoscaling_config"]["min_replicas"]
        for d in application["deployments"]
    )
    worker = services["worker"]
    assert wanted <= worker["deploy"]["replicas"] * options_of(worker)["num_cpus"]


def test_the_object_stores_fit_into_dev_shm(services: Any) -> None:
    for name in ("head", "worker"):
        size = services[name]["shm_size"]
        shm = int(size[:-1]) * SIZES[size[-1]]
        assert options_of(services[name])["object_store_memory"] * 1.1 <= shm


def test_only_the_server_is_reached_from_outside(services: Any) -> None:
    open_to_all = {
        port.split(":")[-1]
        for service in services.values()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }
    assert {"8000", "9000"} == open_to_all


def test_there_is_no_cluster_without_a_token_and_no_grafana_without_a_password(
    services: Any,
) -> None:
    for name in ("head", "worker", "deploy"):
        assert "token" == services[name]["environment"]["RAY_AUTH_MODE"]
        assert services[name]["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert password.startswith("${GRAFANA_PASSWORD:?")
    assert "cluster/docker/.env" in (ROOT / ".gitignore").read_text().splitlines()
