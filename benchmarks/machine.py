"""The machine and the versions that a result was taken with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino as ov
import psutil

from benchmarks.compiling import PRECISION


def machine() -> dict[str, str | int]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openvino": version("openvino"),
        "ray": version("ray"),
        "precision": os.environ.get(PRECISION) or _chosen_precision(),
    }


def _chosen_precision() -> str:
    chosen: Any = ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    return str(chosen.to_string())


def _cpu_model() -> str:
    """As /proc/cpuinfo has it; on other systems only the architecture is known."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
