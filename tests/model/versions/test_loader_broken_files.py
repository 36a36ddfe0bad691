"""Files that cannot be loaded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.model.versions.lifecycle import LoadFailed
from tests.e2e.live import put_version
from tests.model.versions.from_files import loaded


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _dangling(file: Path) -> None:
    file.unlink()
    os.symlink("no_allocation", file)


@pytest.mark.parametrize(
    ("file", "broken", "told"),
    [
        ("m.xml", _truncated, "OpenVINO cannot read m.xml"),
        ("m.bin", _truncated, "OpenVINO cannot read m.xml"),
        ("m.bin", Path.unlink, "OpenVINO cannot read m.xml"),
        ("m.xml", Path.unlink, "its directory has no model file (.xml, .onnx, .tflite, "),
        ("m.bin", _dangling, "m.bin cannot be read: no such file or directory"),
    ],
)
async def test_broken_files_are_told_in_words(
    file: str, broken: Any, told: str, tmp_path: Path
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    broken(tmp_path / "models" / "m" / "1" / file)
    with pytest.raises(LoadFailed) as caught:
        await loaded(tmp_path)
    assert told in str(caught.value)


_AS_NOBODY = """
import os, pathlib
from deployments.model.sources.local import SourceUnavailable, find
if os.geteuid() == 0:  # who may read everything
    os.setuid(65534)
try:
    print(find("m", "m", pathlib.Path())[1].problem)
except SourceUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [
        ("m/1/m.bin", "m.bin cannot be read: permission denied"),
        ("m/1", "its directory cannot be read: permission denied"),
        ("m", "m cannot be used: permission denied"),
    ],
)
def test_what_may_not_be_read_is_told(forbidden: str, told: str, tmp_path: Path) -> None:
    put_version(tmp_path / "m", 1)
    (tmp_path / forbidden).chmod(0)
    tmp_path.chmod(0o755)
    answer = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    (tmp_path / forbidden).chmod(0o755)
    assert f"{told}\n" == answer
