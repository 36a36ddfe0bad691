"""The threads of a version that is loaded."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import openvino as ov
import pytest

from tests.e2e.live import put_version
from tests.model.versions.from_files import ask, loaded


def properties(given: dict[str, Any]) -> dict[str, Any]:
    """Those of threads and their places."""
    return {
        name: given[name]
        for name in ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING")
        if name in given
    }


@pytest.mark.parametrize(
    ("reserved_cpus", "plugin_config", "expected"),
    [
        (0, {}, {"ENABLE_CPU_PINNING": False}),
        (0, {"ENABLE_CPU_PINNING": True}, {"ENABLE_CPU_PINNING": True}),
        (1, {}, {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}),
        (2.5, {}, {"INFERENCE_NUM_THREADS": 2, "ENABLE_CPU_PINNING": False}),
        (0.5, {}, {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}),
        (
            2,
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": True},
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": True},
        ),
        (
            0,
            {"INFERENCE_NUM_THREADS": 1},
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False},
        ),
    ],
)
async def test_threads_follow_the_reserved_processors_and_are_not_pinned(
    tmp_path: Path,
    reserved_cpus: float,
    plugin_config: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    with patch.object(
        ov.Core, "compile_model", autospec=True, side_effect=ov.Core.compile_model
    ) as spy:
        serving = await loaded(tmp_path, reserved_cpus=reserved_cpus, plugin_config=plugin_config)
    assert expected == properties(spy.call_args.args[3])
    assert 1.0 == await ask(serving, 1, 4)
    await serving.close()
