"""The peers' virtual environments, made on demand under build/peers."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP_OPTIONS = {"triton": ["--no-deps"]}


class InstallError(Exception):
    """Raised when a peer's requirements cannot be installed."""

    def __init__(self, peer: str, output: str) -> None:
        errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
        reason = " ".join(errors)[:300] or "pip or venv failed without saying why"
        super().__init__(f"{peer} cannot be installed: {reason}")


def requirements(peer: str) -> Path:
    return Path(__file__).parent / peer / "requirements.txt"


def environment(peer: str) -> Path:
    """The directory of the commands in the peer's environment; installs it if its pins changed."""
    home, wanted = ROOT / "build" / "peers" / peer, requirements(peer)
    installed = home / "installed.txt"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        shutil.rmtree(home, ignore_errors=True)
        print(f"installing {peer}", flush=True)
        python = home / "bin" / "python"
        _run(peer, sys.executable, "-m", "venv", home)
        options = ["--disable-pip-version-check", *PIP_OPTIONS.get(peer, [])]
        _run(peer, python, "-m", "pip", "install", *options, "-r", wanted)
        shutil.copyfile(wanted, installed)
    return home / "bin"


def _run(peer: str, *command: str | Path) -> None:
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise InstallError(peer, ran.stderr)
