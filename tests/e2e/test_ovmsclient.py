"""`ovmsclient` 2023.1, TensorFlow Serving's API, in a virtual environment of its own: it needs a
protobuf of before 2022."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ENVIRONMENT = Path(__file__).parents[2] / "build" / "clients" / "ovmsclient"
REQUIREMENTS = ["ovmsclient==2023.1", "protobuf<4", "numpy<2"]
SCRIPT = Path(__file__).parent / "clients" / "ovms.py"
CALLS = ["predict", "predict_several", "predict_picture", "status", "metadata", "refused"]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the client's environment, which is made once and kept in build/."""
    python, complete = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        subprocess.run(install, check=True)
        complete.touch()
    return python


def picture() -> bytes:
    canvas = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(canvas, (80, 60), 9, (255, 255, 255), -1)
    return cv2.imencode(".png", canvas)[1].tobytes()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_ovmsclient(python: Path, server: Server, protocol: str, call: str) -> None:
    port = server.ports[1 if protocol == "grpc" else 0]
    run = subprocess.run(
        [python, SCRIPT, protocol, call, f"127.0.0.1:{port}"],
        input=picture(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert not run.returncode, (run.stdout + run.stderr).decode()
