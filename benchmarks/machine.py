"""The machine and the versions of a measurement."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import openvino as ov
import psutil

from benchmarks.compiling import PRECISION

INSTRUCTIONS: Final = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""The instruction sets that matter to OpenVINO, best first, by Linux's names."""


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
    """The model in /proc/cpuinfo and its best instruction set; the architecture without Linux."""
    path = Path("/proc/cpuinfo")
    known: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        known.setdefault(key.strip(), value.strip())
    flags = known.get("flags", "").split()
    best = next((f" with {name}" for name in INSTRUCTIONS if name in flags), "")
    return known.get("model name", platform.machine()) + best
