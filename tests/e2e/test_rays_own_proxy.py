"""A server behind Ray's own proxy, as where HAProxy cannot run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.check import without_haproxy
from tests.e2e.calling import Client
from tests.e2e.client import infer, spots_found
from tests.e2e.clients import TRITON_GRPC
from tests.e2e.conftest import config
from tests.e2e.server import Server, family, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def proxied(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: list[dict[str, Any]] = [
        {"name": "spots", "source": "builtin:spots"},
        {
            "name": "slow",
            "source": "slow",
            "reshape": "blocking",
            "warm_up": ["(1,1,4)"],
            "batching": {"stacking": "never"},  # measuring it would take half a minute
        },
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
    one_cpu = {"name": "add-one", "ray_actor_options": {"num_cpus": 1}}
    plain["applications"][0]["deployments"] = [one_cpu]
    with running(plain, directory, {"ANYSHAPE_MODELS": str(repository)}) as server:
        yield server


def test_spots_are_found_without_haproxy(proxied: Server) -> None:
    assert not any("haproxy" in member.name() for member in family(proxied.process))
    expected, found = spots_found(proxied.url)
    assert expected == found


def test_a_replica_has_the_streams_of_the_processors_that_it_reserves(proxied: Server) -> None:
    assert 2 == proxied.statistics("add-one")["slots"], "two infer requests for one stream"
    if os.cpu_count() != 1:
        assert 2 < proxied.statistics("echo")["slots"]


def test_a_large_answer_over_http_through_rays_own_proxy(proxied: Server) -> None:
    pictures = np.zeros((32, 3, 32, 32), np.float32)
    answer = infer(proxied.url, "spots", {"data": pictures})["detection_out"]
    assert (1, 1, 32 * 200, 7) == answer.shape
    assert answer.nbytes > 2**17


@pytest.mark.parametrize("name", TRITON_GRPC)
def test_through_rays_own_proxy(name: str, triton: Client, proxied: Server) -> None:
    triton.call(name, proxied.grpc)
