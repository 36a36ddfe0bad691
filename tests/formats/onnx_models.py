"""ONNX models, one with its weights in a separate file, and one of eight-bit integers."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deployments.tensors import Array

_PICTURES: list[str | int | None] = ["rows", 3, "height", "width"]


def write_onnx_model(path: Path, kernel: Array) -> None:
    """Writes a convolution of "images:0" [N,3,H,W] with a kernel [O,3,H,W], and a ReLU."""
    onnx.save_model(_convolution(kernel), path)


def write_onnx_model_with_external_data(path: Path, kernel: Array) -> None:
    onnx.save_model(
        _convolution(kernel),
        path,
        save_as_external_data=True,
        location=f"{path.stem}.weights",
        size_threshold=0,
        convert_attribute=False,
    )


def write_quantized_onnx_model(path: Path, kernel: Array) -> None:
    """Writes the same for bytes: pictures and kernel are quantized with powers of 2."""
    constants: dict[str, Array] = {
        "kernel_8": kernel.astype(np.int8),
        "zero": np.array(0, np.int8),
        "half": np.array(0.5, np.float32),
        "middle": np.array(128, np.uint8),
        "one": np.array(1, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images:0", "one", "middle"], ["images_8"]),
        helper.make_node("DequantizeLinear", ["images_8", "one", "middle"], ["images"]),
        helper.make_node("DequantizeLinear", ["kernel_8", "half", "zero"], ["kernel"]),
        helper.make_node("Conv", ["images", "kernel"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["y"]),
    ]
    onnx.save_model(_model(nodes, constants, len(kernel)), path)


def _convolution(kernel: Array) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["images:0", "kernel"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["y"]),
    ]
    return _model(nodes, {"kernel": kernel}, len(kernel))


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], channels: int
) -> onnx.ModelProto:
    out: list[str | int | None] = ["rows", channels, "out_height", "out_width"]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("images:0", TensorProto.FLOAT, _PICTURES)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )
