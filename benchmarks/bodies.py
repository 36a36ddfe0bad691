"""Request bodies in the binary form of KServe v2, the same for every arm."""

import json
from math import prod
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from benchmarks.shapes import Shape

HEADER: Final = "Inference-Header-Content-Length"
Form: TypeAlias = Literal["FP32", "UINT8", "JPEG"]
ITEM_BYTES: Final = {"FP32": 4, "UINT8": 1}
JPEG_QUALITY: Final = 90


def pixels(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Random values from 0 to 255; a shorter array equals the beginning of a longer one."""
    return (np.random.default_rng(0).random(count, np.float32) * 255).astype(dtype)


def jpeg(height: int, width: int) -> bytes:
    """A JPEG of soft random patches, about as large as one of a photograph."""
    patches = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    done, raw = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return bytes(raw)


def buffer(form: Form, shapes: tuple[Shape, ...]) -> bytes:
    """The tensor data of the largest shape; that of a smaller one is its beginning.

    A JPEG is one element of a BYTES tensor: four bytes with its length, then the file.
    """
    if form == "JPEG":
        ((_, _, height, width),) = shapes
        raw = jpeg(height, width)
        return len(raw).to_bytes(4, "little") + raw
    dtype = np.float32 if form == "FP32" else np.uint8
    return pixels(max(map(prod, shapes)), dtype).tobytes()


def data_bytes(form: Form, shape: Shape, whole: bytes) -> int:
    """The number of bytes of `buffer` in a request of this shape."""
    return len(whole) if form == "JPEG" else ITEM_BYTES[form] * prod(shape)


def head(form: Form, shape: Shape, nbytes: int) -> bytes:
    """The JSON part of a request, on one line."""
    entry = {
        "name": "data",
        "datatype": "BYTES" if form == "JPEG" else form,
        "shape": [1] if form == "JPEG" else shape,
        "parameters": {"binary_data_size": nbytes},
    }
    return json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()


def body(form: Form, shape: Shape) -> tuple[bytes, int]:
    """A complete request body, and the length of its JSON part."""
    whole = buffer(form, (shape,))
    start = head(form, shape, len(whole))
    return start + whole, len(start)
