"""`tritonclient.grpc` as its users have it, through HAProxy and through Ray's own proxy."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.check import without_haproxy
from tests.e2e.conftest import config
from tests.e2e.server import Server, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CALLS = [
    "describes",
    "infers",
    "infers_compressed",
    "infers_async",
    "infers_aio",
    "streams",
    "sends_strings",
    "sends_pictures",
    "sends_typed_contents",
    "is_refused",
    "is_too_late",
    "is_too_large",
    "is_healthy",
    "is_reflected",
    "leaves",
]


def call(name: str, server: Server) -> None:
    address = f"127.0.0.1:{server.ports[1]}"
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.clients.triton_grpc", name, address],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert not run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("name", CALLS)
def test_through_haproxy(name: str, server: Server) -> None:
    call(name, server)


@pytest.fixture(scope="module")
def proxied(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind Ray's own proxy, as where HAProxy cannot run."""
    models: list[dict[str, Any]] = [
        {"name": "spots", "source": "builtin:spots"},
        {"name": "slow", "source": "slow", "reshape": "blocking", "warm_up": ["(1,1,4)"]},
        {"name": "add-one", "source": "add-one", "shape": "(1:64,10)"},
        {"name": "echo", "source": "echo"},
        {
            "name": "missing",
            "source": [{"url": "https://127.0.0.1:9/missing.onnx", "sha384": "0" * 96}],
        },
    ]
    settings = {"limits": {"body_bytes": 32 * 2**20}}
    directory = tmp_path_factory.mktemp("proxied")
    plain = without_haproxy(config(models, **settings))
    with running(plain, directory, {"ANYSHAPE_MODELS": str(repository)}) as server:
        yield server


@pytest.mark.parametrize("name", CALLS)
def test_through_rays_own_proxy(name: str, proxied: Server) -> None:
    call(name, proxied)
