"""Two replicas of a model behind one ingress: a shape is compiled where it goes, and only there."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.conftest import config
from tests.e2e.host import Host
from tests.e2e.server import NO_TLS, Server
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SIDES = range(32, 44)


@pytest.fixture(scope="module")
def pair(shared_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Server:
    models = [
        {"name": "spots", "source": "builtin:spots", "reshape": "blocking"},
        {"name": "rare", "source": "builtin:spots", "reshape": "blocking"},
    ]
    wanted = config(models)
    scaling = {
        "min_replicas": 2,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 0,
        "look_back_period_s": 2,
        "metrics_interval_s": 0.5,
    }
    to_zero = {
        **scaling,
        "min_replicas": 0,
        "initial_replicas": 1,
        "max_replicas": 1,
        "downscale_delay_s": 0,
    }
    wanted["applications"][0]["deployments"] = [
        {"name": "spots", "autoscaling_config": scaling},
        {"name": "rare", "autoscaling_config": to_zero},
    ]
    server = shared_host.serve(wanted, tmp_path_factory.mktemp("pair"))
    until(lambda: len(compiles(server)) == 2, "both replicas are there", patience_s=60, every_s=0.2)
    return server


def infer(server: Server, side: int, model: str = "spots") -> int:
    data = np.zeros((1, 3, side, side), np.float32)
    request = {"name": "data", "shape": data.shape, "datatype": "FP32", "data": data.tolist()}
    reply = httpx.post(
        f"{server.url}/v2/models/{model}/infer",
        json={"inputs": [request]},
        timeout=60,
        verify=NO_TLS,
    )
    return reply.status_code


def compiles(server: Server) -> list[int]:
    return [replica["compiles"] for replica in server.all_statistics("spots")]


def test_each_shape_is_compiled_by_one_replica_and_both_have_some(pair: Server) -> None:
    before = compiles(pair)
    assert 2 == len(before)
    for _ in range(3):
        assert {200} == {infer(pair, side) for side in SIDES}
    after = compiles(pair)
    assert len(SIDES) == sum(after) - sum(before)
    assert min(after) > 0


def test_requests_that_wait_in_the_ingress_count_for_autoscaling(pair: Server) -> None:
    """Batches hide how many there are: of one shape, two are under way at any replica."""
    end = time.monotonic() + 60
    with ThreadPoolExecutor(32) as clients:
        while time.monotonic() < end and len(compiles(pair)) < 3:
            assert {200} == set(clients.map(lambda _: infer(pair, SIDES[0]), range(128)))
    assert 3 == len(compiles(pair))


def test_a_connection_that_is_kept_for_a_minute_keeps_no_replica(pair: Server) -> None:
    for _ in range(10):  # the first may wait for a replica
        assert 200 == infer(pair, SIDES[0], "rare")
    (pid,) = pair.replica_pids("rare")
    until(lambda: not psutil.pid_exists(pid), "the replica has ended", patience_s=45, every_s=0.2)
    assert 200 == infer(pair, SIDES[0], "rare")
