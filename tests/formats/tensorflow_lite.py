"""Writes a TensorFlow Lite model with the package of its schema."""

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import tflite

from deployments.tensors import Array


def write_lite_model(path: Path, kernel: Array, bias: Array) -> None:
    """Writes a model: the convolution of x [1,8,8,I] with a kernel [O,H,W,I], and a ReLU.

    The file has the shape, as that of every TensorFlow Lite model.
    """
    out, height, width, channels = kernel.shape
    builder = flatbuffers.Builder(1024)
    shapes = {
        "x": [1, 8, 8, channels],
        "kernel": kernel.shape,
        "bias": bias.shape,
        "y": [1, 9 - height, 9 - width, out],
    }
    contents = {"kernel": kernel.tobytes(), "bias": bias.tobytes()}
    buffers = [_buffer(builder, contents.get(name, b"")) for name in ["", *shapes]]
    tensors = [
        _tensor(builder, name, shape, position)
        for position, (name, shape) in enumerate(shapes.items(), start=1)
    ]
    operators = [_convolution(builder, inputs=[0, 1, 2], outputs=[3])]
    graph = [_graph(builder, tensors, operators)]
    codes = [_code(builder)]
    offsets = [_offsets(builder, part) for part in (codes, graph, buffers)]
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, offsets[0])
    tflite.ModelAddSubgraphs(builder, offsets[1])
    tflite.ModelAddBuffers(builder, offsets[2])
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    path.write_bytes(builder.Output())


def _graph(builder: flatbuffers.Builder, tensors: list[int], operators: list[int]) -> int:
    parts = _offsets(builder, tensors), _offsets(builder, operators)
    inputs, outputs = _integers(builder, [0]), _integers(builder, [len(tensors) - 1])
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, parts[0])
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    tflite.SubGraphAddOperators(builder, parts[1])
    return int(tflite.SubGraphEnd(builder))


def _convolution(builder: flatbuffers.Builder, inputs: list[int], outputs: list[int]) -> int:
    tflite.Conv2DOptionsStart(builder)
    tflite.Conv2DOptionsAddPadding(builder, tflite.Padding.VALID)
    tflite.Conv2DOptionsAddStrideW(builder, 1)
    tflite.Conv2DOptionsAddStrideH(builder, 1)
    tflite.Conv2DOptionsAddFusedActivationFunction(builder, tflite.ActivationFunctionType.RELU)
    options = tflite.Conv2DOptionsEnd(builder)
    ports = _integers(builder, inputs), _integers(builder, outputs)
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, 0)
    tflite.OperatorAddInputs(builder, ports[0])
    tflite.OperatorAddOutputs(builder, ports[1])
    tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.Conv2DOptions)
    tflite.OperatorAddBuiltinOptions(builder, options)
    return int(tflite.OperatorEnd(builder))


def _code(builder: flatbuffers.Builder) -> int:
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddVersion(builder, 1)
    return int(tflite.OperatorCodeEnd(builder))


def _tensor(builder: flatbuffers.Builder, name: str, shape: Sequence[int], buffer: int) -> int:
    text, sizes = builder.CreateString(name), _integers(builder, shape)
    tflite.TensorStart(builder)
    tflite.TensorAddName(builder, text)
    tflite.TensorAddShape(builder, sizes)
    tflite.TensorAddType(builder, tflite.TensorType.FLOAT32)
    tflite.TensorAddBuffer(builder, buffer)
    return int(tflite.TensorEnd(builder))


def _buffer(builder: flatbuffers.Builder, content: bytes) -> int:
    data = builder.CreateNumpyVector(np.frombuffer(content, np.uint8)) if content else None
    tflite.BufferStart(builder)
    if data is not None:
        tflite.BufferAddData(builder, data)
    return int(tflite.BufferEnd(builder))


def _integers(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _offsets(builder: flatbuffers.Builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())
