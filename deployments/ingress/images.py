"""Encoded pictures to tensors. Blocking: decode in a worker thread."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import cv2
import imagesize
import numpy as np

from deployments.errors import InvalidImage, InvalidShape, LimitExceeded, WrongRank
from deployments.inference import InputSpec
from deployments.settings import Limits
from deployments.tensors import BF16, BYTES, NUMPY_DTYPES, Array, Tensor, float32_to_bf16

_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

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
    """The pictures of a BYTES tensor of shape [N] as the pixels the model takes.

    JPEG and PNG, decoded to BGR (one channel: grey) with values 0 to 255, turned as their EXIF
    orientation says. A picture is scaled to the height and width that the model fixes, else to
    the input's parameters `height` and `width`, else it keeps its own size; then all pictures of
    a request need the same one. `allocate` gives the memory for the result.
    """
    assert isinstance(tensor.data, list)
    if len(tensor.shape) != 1:
        raise WrongRank(spec.name, tensor.shape, ["N"])
    if not tensor.data:
        raise InvalidShape(spec.name, list(tensor.shape))
    first = 2 if spec.pictures == "NCHW" else 1
    channels = spec.dims[1 if spec.pictures == "NCHW" else 3].fixed
    size = _target_size(spec, first, parameters, limits)
    pictures = [
        _decoded(spec.name, index, raw, channels or 3, size, limits)
        for index, raw in enumerate(tensor.data)
    ]
    for index, picture in enumerate(pictures):
        if picture.shape != pictures[0].shape:
            raise InvalidImage(
                spec.name,
                index,
                f"is {_size(picture)}, image 0 is {_size(pictures[0])}; pictures of one request "
                "need one size, which the input's parameters height and width can give",
            )
    return _assembled(spec, pictures, allocate)


def _target_size(
    spec: InputSpec, first: int, parameters: Mapping[str, Any], limits: Limits
) -> tuple[int | None, int | None]:
    height = _target(spec, first, parameters, "height")
    width = _target(spec, first + 1, parameters, "width")
    if (pixels := (height or 1) * (width or 1)) > limits.image_pixels:
        raise LimitExceeded("image size", pixels, "image_pixels", limits.image_pixels)
    return height, width


def _target(spec: InputSpec, axis: int, parameters: Mapping[str, Any], name: str) -> int | None:
    if (fixed := spec.dims[axis].fixed) is not None:
        return fixed
    value = parameters.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise InvalidShape(f"{spec.name}' parameter '{name}", value)
    return value


def _decoded(
    name: str,
    index: int,
    raw: bytes,
    channels: int,
    size: tuple[int | None, int | None],
    limits: Limits,
) -> Array:
    """One picture, height x width x channels, uint8. Looks at its size before it decodes."""
    if not raw.startswith(_SIGNATURES):
        raise InvalidImage(name, index, "is neither JPEG nor PNG")
    width, height = imagesize.get(BytesIO(raw))
    if width < 1 or height < 1:
        raise InvalidImage(name, index, "has no readable size")
    if width * height > limits.image_pixels:
        raise LimitExceeded(
            f"pixel count of input '{name}', image {index},",
            width * height,
            "image_pixels",
            limits.image_pixels,
        )
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        picture = cv2.imdecode(np.frombuffer(raw, np.uint8), flag)
    except cv2.error:
        picture = None
    if picture is None:
        raise InvalidImage(name, index, "cannot be decoded")
    own_height, own_width = picture.shape[:2]
    wanted = size[1] or own_width, size[0] or own_height
    if wanted != (own_width, own_height):
        picture = cv2.resize(picture, wanted)
    return np.asarray(picture).reshape(wanted[1], wanted[0], channels)


def _size(picture: Array) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _assembled(spec: InputSpec, pictures: Sequence[Array], allocate: Allocate) -> Tensor:
    height, width, channels = pictures[0].shape
    planes = (channels, height, width) if spec.pictures == "NCHW" else (height, width, channels)
    shape = (len(pictures), *planes)
    dtype = NUMPY_DTYPES[spec.datatype]
    space = allocate(int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
    for target, picture in zip(space, pictures, strict=True):
        pixels = picture.transpose(2, 0, 1) if spec.pictures == "NCHW" else picture
        target[...] = (
            float32_to_bf16(pixels.astype(np.float32)) if spec.datatype == BF16 else pixels
        )
    return Tensor(spec.name, spec.datatype, shape, space)
