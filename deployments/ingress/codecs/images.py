"""Decodes encoded pictures to tensors. Blocking: call it in a worker thread."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import cv2
import numpy as np

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.errors import InvalidImage, LimitExceeded, MalformedBody, WrongRank
from deployments.inference import InputSpec
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, float32_to_bf16

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
# JPEG markers, ITU-T T.81, table B.1: any, those without a length, those that begin a frame.
_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])")
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

Allocate = Callable[[int], Array]


def is_picture_input(spec: InputSpec, tensor: Tensor) -> bool:
    """Whether the client sent encoded pictures where the model takes pixels."""
    return tensor.datatype == BYTES and spec.pictures is not None


def decode_pictures(
    spec: InputSpec,
    tensor: Tensor,
    parameters: Mapping[str, Any],
    limits: Limits,
    allocate: Allocate,
) -> Tensor:
    """Decodes the pictures of a BYTES tensor of shape [N] to the pixels that the model takes.

    JPEG and PNG pictures get values 0 to 255 in BGR, in RGB where clients send RGB, or in grey for
    one channel, and are rotated by their EXIF orientation. They are scaled to the height and width
    that the input fixes, else to the input's parameters `height` and `width`, else not at all. All
    pictures of a request must have one size. `allocate` provides the memory of the result.
    """
    assert isinstance(tensor.data, list)
    if len(tensor.shape) != 1:
        raise WrongRank(spec.name, tensor.shape, ["N"])
    count = len(tensor.data)
    if not count:
        raise MalformedBody(f"input '{spec.name}' has no image")
    if count > limits.batch_rows:
        raise LimitExceeded("batch", count, "batch_rows", limits.batch_rows)
    first = 2 if spec.pictures == "NCHW" else 1
    channels = spec.dims[1 if spec.pictures == "NCHW" else 3].fixed
    size = _target(spec, first, parameters, "height"), _target(spec, first + 1, parameters, "width")
    pictures: list[Array] = []
    for index, raw in enumerate(tensor.data):
        picture = _decoded(spec.name, index, raw, channels or 3, size, limits)
        pictures.append(picture)
        if (elements := count * picture.size) > limits.elements:
            what = f"element count of input '{spec.name}'"
            raise LimitExceeded(what, elements, "elements", limits.elements)
        if (nbytes := elements * NUMPY_DTYPES[spec.datatype].itemsize) > limits.body_bytes:
            what = f"decoded size in bytes of the pictures of input '{spec.name}'"
            raise LimitExceeded(what, nbytes, "body_bytes", limits.body_bytes)
        if picture.shape != pictures[0].shape:
            raise InvalidImage(
                spec.name,
                index,
                f"is {_size(picture)}, image 0 is {_size(pictures[0])}; pictures of one request "
                "need one size, set it by the input's parameters height and width",
            )
    return _assembled(spec, pictures, allocate)


def _target(spec: InputSpec, axis: int, parameters: Mapping[str, Any], name: str) -> int | None:
    if (fixed := spec.dims[axis].fixed) is not None:
        return fixed
    value = parameters.get(name)
    if value is not None and (type(value) is not int or value < 1):
        what = f"input '{spec.name}' has {name} {str(value)[:40]}, not an integer >= 1"
        raise MalformedBody(what)
    return value


def _decoded(
    name: str,
    index: int,
    raw: bytes,
    channels: int,
    size: tuple[int | None, int | None],
    limits: Limits,
) -> Array:
    """Decodes one picture to height x width x channels, uint8; checks its size before that."""
    if not raw.startswith((_JPEG, _PNG)):
        raise InvalidImage(name, index, "is neither JPEG nor PNG")
    pixels = _stored_pixels(raw)
    if not pixels:
        raise InvalidImage(name, index, "has no readable size")
    _check_pixels(f"pixel count of input '{name}', image {index},", pixels, limits)
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        picture = cv2.imdecode(np.frombuffer(raw, np.uint8), flag)
    except cv2.error:
        picture = None
    if picture is None:
        raise InvalidImage(name, index, "cannot be decoded")
    own_height, own_width = picture.shape[:2]
    wanted = size[1] or own_width, size[0] or own_height
    _check_pixels(f"wanted pixel count of input '{name}'", wanted[0] * wanted[1], limits)
    if wanted != (own_width, own_height):
        picture = cv2.resize(picture, wanted)
    return np.asarray(picture).reshape(wanted[1], wanted[0], channels)


def _stored_pixels(raw: bytes) -> int:
    """Reads width times height from the header; 0 if there is none.

    Finds JPEG markers exactly as libjpeg does, past fill bytes and garbage. If it stopped at
    another frame header than the decoder, a picture of any size could pass.
    """
    if raw.startswith(_PNG):
        return _number(raw[16:20]) * _number(raw[20:24]) if raw[12:16] == b"IHDR" else 0
    position = 2
    while found := _MARKER.search(raw, position):
        marker, position = found[1][0], found.end()
        if marker in _FRAMES:
            frame = raw[position : position + 7]  # length, bits, height, width
            return _number(frame[3:5]) * _number(frame[5:7])
        if marker not in _STANDALONE:
            position += _number(raw[position : position + 2])
    return 0


def _number(digits: bytes) -> int:
    return int.from_bytes(digits, "big")


def _check_pixels(what: str, pixels: int, limits: Limits) -> None:
    if pixels > limits.image_pixels:
        raise LimitExceeded(what, pixels, "image_pixels", limits.image_pixels)


def _size(picture: Array) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _assembled(spec: InputSpec, pictures: Sequence[Array], allocate: Allocate) -> Tensor:
    height, width, channels = pictures[0].shape
    planes = (channels, height, width) if spec.pictures == "NCHW" else (height, width, channels)
    shape = (len(pictures), *planes)
    dtype = NUMPY_DTYPES[spec.datatype]
    space = allocate(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    for target, picture in zip(space, pictures, strict=True):
        ordered = picture[:, :, ::-1] if spec.colors == "RGB" else picture  # OpenCV has BGR
        pixels = ordered.transpose(2, 0, 1) if spec.pictures == "NCHW" else ordered
        target[...] = (
            float32_to_bf16(pixels.astype(np.float32)) if spec.datatype == BF16 else pixels
        )
    return Tensor(spec.name, spec.datatype, shape, space)
