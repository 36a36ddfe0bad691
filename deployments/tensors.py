"""Named tensors, the same for every protocol."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deployments.datatypes import BYTES, NUMPY_DTYPES
from deployments.errors import InvalidShape, LimitExceeded, MalformedBody, WrongByteCount

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor of a request or a response.

    `data` is a C-contiguous array of `shape`, or for BYTES a flat list of `prod(shape)` byte
    strings. Arrays may lie in shared memory, which lives as long as an array on it does.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Array | list[bytes]

    @property
    def nbytes(self) -> int:
        if isinstance(self.data, list):
            return sum(map(len, self.data)) + 4 * len(self.data)
        return int(self.data.nbytes)

    def rows(self, start: int, stop: int) -> "Tensor":
        """The part from `start` to `stop` along the first dimension, without copying."""
        shape = (stop - start, *self.shape[1:])
        if isinstance(self.data, list):
            row = prod(self.shape[1:])
            return Tensor(self.name, self.datatype, shape, self.data[start * row : stop * row])
        return Tensor(self.name, self.datatype, shape, self.data[start:stop])


def checked_shape(name: str, shape: object, *, rank: int, elements: int) -> tuple[int, ...]:
    """Checks a client's shape against the limits of rank and element count, and returns it.

    Counts in Python's integers, which cannot overflow, before anything is allocated. The count
    skips dimensions of 0: numpy refuses an array if the product of the others overflows.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise InvalidShape(name, shape)
    if len(shape) > rank:
        raise LimitExceeded(f"rank of input '{name}'", len(shape), "rank", rank)
    if any(type(n) is not int or n < 0 for n in shape):
        raise InvalidShape(name, shape)
    if (count := prod(n or 1 for n in shape)) > elements:
        raise LimitExceeded(f"element count of input '{name}'", count, "elements", elements)
    return tuple(shape)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: Array) -> Tensor:
    """The tensor in `raw`, a uint8 vector in the layout of the binary tensor data extension.

    Numbers are not copied unless their address is not a multiple of their size.
    """
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, split_strings(name, shape, raw))
    dtype = NUMPY_DTYPES[datatype]
    expected = prod(shape) * dtype.itemsize
    if raw.size != expected:
        raise WrongByteCount(name, raw.size, shape, expected)
    return Tensor(name, datatype, shape, numbers(raw, dtype, shape))


def numbers(raw: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """The array in `raw`, a uint8 vector of its size, copied only if it is not aligned."""
    data = raw.view(dtype)
    if not data.flags.aligned:
        data = data.copy()
    return data.reshape(shape)


def split_strings(name: str, shape: tuple[int, ...], raw: Array) -> list[bytes]:
    """Splits a BYTES tensor; each element is a 4-byte little-endian length and its bytes."""
    count = prod(shape)
    view, position = raw.data, 0
    strings: list[bytes] = []
    while position < raw.size:
        if len(strings) == count:
            raise MalformedBody(f"input '{name}' has more than the {count} elements of its shape")
        if position + 4 > raw.size:
            raise MalformedBody(f"input '{name}' ends inside the length of element {len(strings)}")
        (length,) = struct.unpack_from("<I", view, position)
        position += 4
        if length > raw.size - position:
            raise MalformedBody(
                f"input '{name}', element {len(strings)} announces {length} bytes, "
                f"{raw.size - position} are left"
            )
        strings.append(bytes(view[position : position + length]))
        position += length
    if len(strings) != count:
        raise MalformedBody(f"input '{name}' has {len(strings)} elements, its shape needs {count}")
    return strings


def to_bytes(tensor: Tensor) -> bytes | memoryview:
    """Encodes a tensor as the binary tensor data extension has it, numbers without a copy."""
    if isinstance(tensor.data, list):
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.data)
    return np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8).data


def bf16_to_float32(bits: Array) -> NDArray[np.float32]:
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place: for a 0-dimensional array, `wide << 16` would be a scalar
    return wide.view(np.float32)


def float32_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to nearest, ties to even, as the hardware does; NaN stays NaN."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits = flat.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    chosen = np.where(np.isnan(flat), quiet_nan, rounded)
    return chosen.astype(np.uint16).reshape(values.shape)
