"""One server with all the models that the end-to-end tests ask for."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as op
import pytest

from tests.e2e.server import Server, running
from tests.shared import FACE_MODEL

FAST_PATH = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
SLOW_LAYERS = 750


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
    """Takes about a second to compile: many layers, [1,L,4] in and out, L is free."""
    data = op.parameter([1, 1, 4], ov.Type.f32, name="data")
    node = data
    for layer in range(SLOW_LAYERS):
        weights = np.eye(4, dtype=np.float32) * (1 + 1e-6 * layer)
        node = op.sin(op.matmul(node, op.constant(weights), False, False))
    return ov.Model([op.result(node, name="out")], [data], "slow")


def add_one_model() -> ov.Model:
    """[1,10] in, the same plus one out, under the names that its clients expect."""
    data = op.parameter([1, 10], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    total = op.add(data, op.constant(np.float32(1)))
    total.output(0).set_names({"sum"})
    return ov.Model([op.result(total)], [data], "add_one")


def echo_model() -> ov.Model:
    """Two inputs of different kinds and ranks, both given back; the second is strings."""
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The server that many tests share comes last: the others would start more slowly beside it."""
    items.sort(key=_shares_the_server)


def _shares_the_server(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    elsewhere = hasattr(item.module, "server") or item.path.parent != Path(__file__).parent
    return "server" in item.fixturenames and not elsewhere


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Shells have what they start in the background ignore it, and the servers would inherit it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save(slow_model(), path, "slow")
    save(add_one_model(), path, "add-one")
    save(echo_model(), path, "echo")
    if FACE_MODEL.exists():
        os.symlink(FACE_MODEL.parents[1], path / "face-detection")
    return path


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: list[dict[str, Any]] = [
        {
            "name": "spots",
            "source": "builtin:spots",
            "plugin_config": F32,
            "batching": {"stacking": "never"},  # so that shapes of one row are promoted
            "kernel_cache_mb": 32,  # full after some ten shapes
        },
        {
            "name": "spots-blocking",
            "source": "builtin:spots",
            "plugin_config": F32,
            "reshape": "blocking",
            "max_compiled_shapes": 4,
        },
        {
            "name": "slow",
            "source": "slow",
            "reshape": "blocking",
            "warm_up": ["(1,1,4)"],
            "batching": {"stacking": "never"},  # measuring it would take half a minute
        },
        {
            "name": "add-one",
            "source": "add-one",
            "shape": "(1:64,10)",
            "version_labels": {"stable": 1},
        },
        {"name": "echo", "source": "echo"},
        {
            "name": "missing",
            "source": [{"url": "https://127.0.0.1:9/missing.onnx", "sha384": "0" * 96}],
        },
    ]
    if FACE_MODEL.exists():
        models.append({"name": "face-detection", "source": "face-detection", "plugin_config": F32})
        models.append({"name": "face-default", "source": "face-detection"})
    directory = tmp_path_factory.mktemp("server")
    settings = {"limits": {"body_bytes": 32 * 2**20, "timeout_s": 50.0}}
    # Metrics are handed on every second instead of every ten, so that tests need not wait.
    variables = {"ANYSHAPE_MODELS": str(repository), "RAY_metrics_report_interval_ms": "1000"}
    with running(config(models, **settings), directory, variables) as running_server:
        yield running_server
