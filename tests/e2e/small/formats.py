"""A model in every format that OpenVINO reads from a file, and requests for it.

Weights and inputs are integers, whose sums are exact in any order. PyTorch's and JAX's models are
not files that `read_model` reads, so the server cannot serve them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov

from deployments.tensors import Array
from tests.e2e.small.answers import Request
from tests.formats import onnx_models, paddle, tensorflow, tensorflow_lite
from tests.model import models
from tests.model.loading import tensor


def whole(*shape: int) -> Array:
    return (np.arange(np.prod(shape), dtype=np.float32) % 11 - 5).reshape(shape)


def bound(*shape: int) -> Array:
    """Numbers that fit into bytes and into half-precision floats."""
    return np.random.default_rng(len(shape) + 2).integers(-128, 127, shape).astype(np.float32)


def write_ir(path: Path) -> None:
    """Writes an IR with f16 weights, the default of conversions."""
    ov.save_model(models.convolution(), path, compress_to_fp16=True)


NCHW, NHWC = whole(2, 3, 3, 3), whole(3, 3, 3, 2)
FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ir": ("ir/1/model.xml", write_ir),
    "onnx": ("onnx/1/model.onnx", lambda path: onnx_models.write_onnx_model(path, NCHW)),
    "onnx-external": (
        "onnx-external/1/model.onnx",
        lambda path: onnx_models.write_onnx_model_with_external_data(path, NCHW),
    ),
    "onnx-int8": (
        "onnx-int8/1/model.onnx",
        lambda path: onnx_models.write_quantized_onnx_model(path, NCHW),
    ),
    "onnx-file": ("one file.onnx", lambda path: onnx_models.write_onnx_model(path, NCHW)),
    "lite": (
        "lite/1/model.tflite",
        lambda path: tensorflow_lite.write_lite_model(path, whole(2, 3, 3, 3), whole(2)),
    ),
    "frozen-graph": (
        "frozen-graph/1/graph.pb",
        lambda path: tensorflow.write_frozen_graph(path, NHWC),
    ),
    "saved-model": (
        "saved-model/1/saved_model.pb",
        lambda path: tensorflow.write_saved_model(path.parent, whole(4, 3)),
    ),
    "saved-model-directory": (
        "exported/saved_model.pb",
        lambda path: tensorflow.write_saved_model(path.parent, whole(4, 3)),
    ),
    "paddle": (
        "paddle/1/inference.pdmodel",
        lambda path: paddle.write_paddle_model(path, whole(4, 3)),
    ),
}
SOURCES = {"onnx-file": "one file.onnx", "saved-model-directory": "exported"}

IMAGES: dict[str, list[int]] = {"images:0": [-1, 3, -1, -1]}
INPUTS: dict[str, dict[str, list[int]]] = {
    "ir": {"x": [-1, 3, -1, -1]},
    "onnx": IMAGES,
    "onnx-external": IMAGES,
    "onnx-int8": IMAGES,
    "onnx-file": IMAGES,
    "lite": {"x": [-1, -1, -1, 3]},
    "frozen-graph": {"x:0": [-1, -1, -1, 3]},
    "saved-model": {"x": [-1, 4]},
    "saved-model-directory": {"x": [-1, 4]},
    "paddle": {"x": [-1, -1, 4]},
}
SHAPES: dict[int, list[tuple[int, ...]]] = {
    4: [(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 5, 13)],
    3: [(1, 2, 4), (3, 5, 4)],
    2: [(1, 4), (5, 4)],
}


def requests_for(name: str) -> list[Request]:
    ((port, told),) = INPUTS[name].items()
    shapes = SHAPES[len(told)]
    if len(told) == 4 and told[-1] == 3:
        shapes = [(shape[0], *shape[2:], shape[1]) for shape in shapes]
    return [[tensor(bound(*shape), name=port)] for shape in shapes]


def write_all(directory: Path) -> None:
    for path, write in FILES.values():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        write(directory / path)
