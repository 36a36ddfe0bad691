"""The OpenVINO properties with which all arms compile their models."""

import os
from typing import Final

PRECISION: Final = "ANYSHAPE_BENCH_PRECISION"
"""The environment variable of the precision, which all processes inherit; OpenVINO's by default."""


def precision() -> dict[str, str]:
    """The property for the precision, empty if none is set."""
    asked = os.environ.get(PRECISION)
    return {"INFERENCE_PRECISION_HINT": asked} if asked else {}


def properties() -> dict[str, str]:
    return {"PERFORMANCE_HINT": "THROUGHPUT", **precision()}
