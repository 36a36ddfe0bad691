"""Pictures and inputs for them."""

import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np

from deployments.datatypes import BYTES, NUMPY_DTYPES
from deployments.dimensions import Dim
from deployments.inference import InputSpec
from deployments.ingress.codecs.images import decode_pictures
from deployments.settings import Limits
from deployments.tensors import Array, Tensor

Layout = Literal["NCHW", "NHWC"]
LIMITS = Limits()
OPEN = Dim(0, None)


def scene(height: int, width: int, *channels: int, dtype: str = "u1", seed: int = 7) -> Array:
    """Random blocks of 8x8 pixels, which JPEG changes little."""
    ends = np.iinfo(dtype)
    blocks = np.random.default_rng(seed).integers(
        0, ends.max, (-(-height // 8), -(-width // 8), *channels), dtype, endpoint=True
    )
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])


def packed(picture: Array, kind: str = "png") -> bytes:
    done, raw = cv2.imencode(f".{kind}", picture)
    assert done
    return bytes(raw)


def spec(
    layout: Layout = "NHWC",
    height: Dim = OPEN,
    width: Dim = OPEN,
    channels: int = 3,
    datatype: str = "UINT8",
    colors: Literal["BGR", "RGB"] = "BGR",
) -> InputSpec:
    planes = Dim(channels, channels)
    dims = (OPEN, planes, height, width) if layout == "NCHW" else (OPEN, height, width, planes)
    return InputSpec("data", datatype, dims, 0, layout, colors)


def sent(*pictures: bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor("data", BYTES, (len(pictures),) if shape is None else shape, list(pictures))


def new_space(nbytes: int) -> Array:
    return np.empty(nbytes, np.uint8)


def decoded(
    *pictures: bytes,
    to: InputSpec | None = None,
    limits: Limits = LIMITS,
    allocate: Callable[[int], Array] = new_space,
    **parameters: Any,
) -> Array:
    """The array of pixels, after a check against its tensor's datatype and shape."""
    target = to or spec()
    tensor = decode_pictures(target, sent(*pictures), parameters, limits, allocate)
    assert (target.name, target.datatype) == (tensor.name, tensor.datatype)
    assert isinstance(tensor.data, np.ndarray)
    assert tensor.shape == tensor.data.shape
    assert NUMPY_DTYPES[target.datatype] == tensor.data.dtype
    assert tensor.data.flags.c_contiguous
    return tensor.data


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes], colour_type: int = 2) -> bytes:
    """A PNG made by hand (ISO/IEC 15948)."""
    head = b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (head, *chunks, (b"IEND", b""))
    )
