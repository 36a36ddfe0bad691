"""Clients that need a process of their own."""

import subprocess
import sys

from tests.e2e.server import Server


def call(name: str, server: Server) -> None:
    """Runs a function of `triton_grpc.py` against the server."""
    address = f"127.0.0.1:{server.ports[1]}"
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.clients.triton_grpc", name, address],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert not run.returncode, run.stdout + run.stderr
