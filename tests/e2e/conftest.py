"""The configuration of servers, and the models that several of them have."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as op
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.e2e.calling import Client, client
from tests.e2e.host import Host, host
from tests.shared import FACE_MODEL

FAST_PATH = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
SLOW_LAYERS = 750
# These modules start servers that no other module can share.
ALONE = ("test_cluster", "test_lifecycle", "test_rays_own_proxy", "test_watching")


def config(models: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return {
        "controller_options": {"runtime_env": {"env_vars": dict(FAST_PATH)}},
        "grpc_options": {
            "grpc_servicer_functions": ["deployments.ingress.grpc.services.add_services"],
        },
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "anyshape",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "runtime_env": {"env_vars": dict(FAST_PATH)},
                "args": {"models": models, **settings},
            }
        ],
    }


def slow_model() -> ov.Model:
    """A model that takes about a second to compile: many layers, [1,L,4] in and out, L is open."""
    data = op.parameter([1, 1, 4], ov.Type.f32, name="data")
    node = data
    for layer in range(SLOW_LAYERS):
        weights = np.eye(4, dtype=np.float32) * (1 + 1e-6 * layer)
        node = op.sin(op.matmul(node, op.constant(weights), False, False))
    return ov.Model([op.result(node, name="out")], [data], "slow")


def add_one_model() -> ov.Model:
    """A model that adds one to [1,10], with the names that clients expect."""
    data = op.parameter([1, 10], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    total = op.add(data, op.constant(np.float32(1)))
    total.output(0).set_names({"sum"})
    return ov.Model([op.result(total)], [data], "add_one")


def echo_model() -> ov.Model:
    """A model that returns its two inputs, of different kinds and ranks; the second is strings."""
    numbers = op.parameter([-1, -1], ov.Type.i64, name="numbers")
    words = op.parameter([-1], ov.Type.string, name="words")
    for node in (numbers, words):
        node.output(0).set_names({node.get_friendly_name()})
    same = op.result(numbers)
    return ov.Model([same, op.result(words)], [numbers, words], "echo")


def save(model: ov.Model, repository: Path, name: str) -> None:
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    ov.save_model(model, directory / f"{name}.xml", compress_to_fp16=False)


class OneServerInOneWorker(LoadScopeScheduling):  # type: ignore[misc]
    """A scheduler for pytest-xdist, whose `loadgroup` does not find the groups with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.partition("::")[0]).stem
        return module if module in ALONE else "shared"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneServerInOneWorker:
    return OneServerInOneWorker(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests that need a newly started server first.

    The folders with many models come last: starting them keeps all processors busy.
    """
    items.sort(key=lambda item: (*_configuration(item), item.get_closest_marker("fresh") is None))


def _configuration(item: pytest.Item) -> tuple[bool, bool, str]:
    """A folder's tests share one, and else a module's. Modules with clusters of their own come
    first: they would start more slowly beside the shared one."""
    folder = item.path.parent
    in_folder = folder != Path(__file__).parent
    name = folder.name if in_folder else item.path.stem
    return item.path.stem not in ALONE, in_folder, name


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Restores SIGINT: processes that shells start in the background ignore it, and servers inherit
    that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def triton() -> Iterator[Client]:
    """An interpreter that runs the calls in `tests.e2e.clients.triton_grpc`."""
    with client("triton_grpc") as started:
        yield started


@pytest.fixture(scope="session")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The cluster for all configurations that need no cluster of their own."""
    with host(tmp_path_factory.mktemp("host")) as started:
        yield started


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save(slow_model(), path, "slow")
    save(add_one_model(), path, "add-one")
    save(echo_model(), path, "echo")
    if FACE_MODEL.exists():
        os.symlink(FACE_MODEL.parents[1], path / "face-detection")
    return path
