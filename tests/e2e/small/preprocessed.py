"""Models with preprocessing in the graph."""

from typing import Any

from tests.model import models

MEAN, SCALE = [4.0, 8.0, 16.0], [2.0, 4.0, 8.0]
SETTINGS: dict[str, dict[str, Any]] = {
    "pixels": {
        "layout": "NHWC:NCHW",
        "precision": "uint8:fp32",
        "color_format": "BGR:RGB",
        "mean": MEAN,
        "scale": "[2,4,8]",
    },
    "both-ends": {"layout": {"x": "NHWC:NCHW", "y": "NHWC:NCHW"}, "precision": {"y": "fp64"}},
    "columns": {"layout": "CN", "batch_size": 3},
    "resized": {"layout": "NHWC:NCHW", "precision": "uint8", "resize": "linear"},
}
MODELS = {name: models.convolution() for name in SETTINGS} | {"columns": models.add_one((4, 1))}
