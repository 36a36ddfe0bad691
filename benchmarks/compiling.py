"""The OpenVINO properties that the models of all arms are compiled with."""

import os
from typing import Final

PRECISION: Final = "ANYSHAPE_BENCH_PRECISION"
"""An environment variable: every process of every arm inherits it. Without it OpenVINO chooses."""


def precision() -> dict[str, str]:
    """The property that says so, where a precision was asked for."""
    asked = os.environ.get(PRECISION)
    return {"INFERENCE_PRECISION_HINT": asked} if asked else {}


def properties() -> dict[str, str]:
    return {"PERFORMANCE_HINT": "THROUGHPUT", **precision()}
