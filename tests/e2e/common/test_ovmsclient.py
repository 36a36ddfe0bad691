"""`ovmsclient` 2023.1, TensorFlow Serving's API, in a virtual environment of its own: it needs a
protobuf of before 2022."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.e2e.calling import Client, client
from tests.e2e.server import ROOT, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ENVIRONMENT = ROOT / "build" / "clients" / "ovmsclient"
REQUIREMENTS = ["ovmsclient==2023.1", "protobuf<4", "numpy<2"]
CALLS = ["predict", "predict_several", "predict_picture", "status", "metadata", "refused"]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the client's environment, which is made once and kept in build/."""
    python, complete = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "complete"
    if not complete.exists():
        venv: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT]
        subprocess.run(venv, check=True)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install"]
        subprocess.run([*pip, "--quiet", "--no-compile", *REQUIREMENTS], check=True)
        complete.touch()
    return python


def picture() -> str:
    """A PNG with one spot, in base64."""
    canvas = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(canvas, (80, 60), 9, (255, 255, 255), -1)
    return base64.b64encode(cv2.imencode(".png", canvas)[1].tobytes()).decode()


@pytest.fixture(scope="module")
def ovms(python: Path) -> Iterator[Client]:
    with client("ovms", python) as started:
        yield started


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_ovmsclient(ovms: Client, server: Server, protocol: str, call: str) -> None:
    port = server.ports[1 if protocol == "grpc" else 0]
    more = [picture()] if call == "predict_picture" else []
    ovms.call(call, protocol, f"127.0.0.1:{port}", *more)
