"""One server with the models of most end-to-end tests."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import F32, config
from tests.e2e.host import Host
from tests.e2e.server import Server
from tests.shared import FACE_MODEL


@pytest.fixture(scope="package")
def server(shared_host: Host, repository: Path) -> Server:
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
            "batching": {"stacking": "never"},  # measuring stacking would take half a minute
        },
        {
            "name": "add-one",
            "source": "add-one",
            "shape": "(1:64,10)",
            "batching": {
                "stacking": "always"
            },  # measurements while other models start may be wrong
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
    settings = {"limits": {"body_bytes": 32 * 2**20, "timeout_s": 50.0}}
    return shared_host.serve(config(models, **settings), repository)
