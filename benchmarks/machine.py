"""The machine and the versions that a result was taken with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import openvino as ov
import psutil

from benchmarks.compiling import PRECISION

INSTRUCTIONS: Final = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""The sets of them that matter to OpenVINO, best first, as Linux names them."""


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
    """As /proc/cpuinfo has it, with what decides how it computes; on other systems only the
    architecture is known."""
    path = Path("/proc/cpuinfo")
    known: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        known.setdefault(key.strip(), value.strip())
    flags = known.get("flags", "").split()
    best = next((f" with {name}" for name in INSTRUCTIONS if name in flags), "")
    return known.get("model name", platform.machine()) + best
