"""Converts byte strings to OpenVINO's string tensors and back, byte for byte.

OpenVINO's Python API converts strings by numpy, which cuts zero bytes off their ends and stores
each at the length of the longest. OpenVINO's own operations do neither.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15 as ops

_CONFIG: Final = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


def to_openvino(strings: Sequence[bytes], shape: Sequence[int]) -> Any:
    """A string tensor of this shape, which owns its memory."""
    if not strings:
        return ov.Tensor(ov.Type.string, ov.Shape(list(shape)))
    lengths = np.array([len(item) for item in strings], np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    places = [(ends - lengths).reshape(shape), ends.reshape(shape)]
    characters = np.frombuffer(b"".join(strings), np.uint8)
    (packed,) = _run(_packing(len(shape)), *places, characters)
    return packed


def from_openvino(tensor: Any) -> list[bytes]:
    """The strings of a tensor, in C order."""
    if not tensor.get_size():
        return []
    begins, ends, characters = _run(_unpacking(len(tensor.shape)), tensor)
    text = characters.data.tobytes()
    places = zip(begins.data.ravel().tolist(), ends.data.ravel().tolist(), strict=True)
    return [text[begin:end] for begin, end in places]


def _run(compiled: Any, *inputs: Any) -> list[Any]:
    """The output tensors of a new infer request, so that nothing overwrites them."""
    request = compiled.create_infer_request()
    for position, value in enumerate(inputs):
        tensor = value if isinstance(value, ov.Tensor) else ov.Tensor(value)
        request.set_input_tensor(position, tensor)
    request.start_async()  # `infer` would read the strings by numpy
    request.wait()
    return [request.get_output_tensor(position) for position in range(len(compiled.outputs))]


@cache
def _packing(rank: int) -> Any:
    begins, ends = (ops.parameter([-1] * rank, ov.Type.i32) for _ in range(2))
    characters = ops.parameter([-1], ov.Type.u8)
    packed = ops.string_tensor_pack(begins, ends, characters)
    return _compiled(ov.Model([ops.result(packed)], [begins, ends, characters], "pack"))


@cache
def _unpacking(rank: int) -> Any:
    strings = ops.parameter([-1] * rank, ov.Type.string)
    parts = ops.string_tensor_unpack(strings).outputs()
    return _compiled(ov.Model([ops.result(part) for part in parts], [strings], "unpack"))


def _compiled(model: ov.Model) -> Any:
    return ov.Core().compile_model(model, "CPU", _CONFIG)
