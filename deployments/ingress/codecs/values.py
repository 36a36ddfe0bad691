"""Decodes tensors for all protocols, from single values or from binary data."""

from math import prod
from typing import Any, Final

import numpy as np
import orjson

from deployments.datatypes import BF16, BYTES, DATATYPES, NUMPY_DTYPES
from deployments.errors import (
    LimitExceeded,
    MalformedBody,
    UnknownDatatype,
    ValueOutOfRange,
    WrongElementCount,
)
from deployments.settings import Limits
from deployments.tensors import (
    Array,
    Tensor,
    bf16_to_float32,
    checked_shape,
    float32_to_bf16,
    from_bytes,
)

_NUMBER_TYPES: Final[dict[str, set[type]]] = {
    "BOOL": {bool},
    "FP": {int, float},
    "BF": {int, float},
}


def json_object(raw: Array, limits: Limits) -> dict[str, Any]:
    """The object in a uint8 vector. Raises LimitExceeded, MalformedBody."""
    if raw.size > limits.json_bytes:
        raise LimitExceeded("JSON part", raw.size, "json_bytes", limits.json_bytes)
    try:
        message = orjson.loads(raw.data)
    except orjson.JSONDecodeError as error:
        # orjson's own text without the excerpt: the position and what orjson expected.
        raise MalformedBody(f"invalid JSON, {error.msg} at byte {error.pos}") from None
    if not isinstance(message, dict):
        raise MalformedBody("the JSON is not an object")
    return message


def check_inputs(count: int, limits: Limits) -> None:
    """Raises LimitExceeded if a request has too many inputs."""
    if count > limits.inputs:
        raise LimitExceeded("number of inputs", count, "inputs", limits.inputs)


def declared(
    name: str, datatype: object, shape: object, limits: Limits
) -> tuple[str, tuple[int, ...]]:
    """Checks an input's datatype and shape from a client against the limits, and returns them."""
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise UnknownDatatype(name, str(datatype)[:40])
    checked = checked_shape(name, shape, rank=limits.rank, elements=limits.elements)
    if datatype == BYTES and (count := prod(checked)) > limits.strings:
        raise LimitExceeded(f"element count of input '{name}'", count, "strings", limits.strings)
    return datatype, checked


def from_binary(name: str, datatype: str, shape: tuple[int, ...], raw: Array) -> Tensor:
    """The tensor in `raw`, a uint8 vector; numbers are not copied.

    A single picture may lack the length with which BYTES elements start.
    """
    if datatype == BYTES and prod(shape) == 1 and (picture := _bare_picture(raw)) is not None:
        return Tensor(name, BYTES, shape, [picture])
    return from_bytes(name, datatype, shape, raw)


def _bare_picture(raw: Array) -> bytes | None:
    head = bytes(raw[:8])
    if int.from_bytes(head[:4], "little") == raw.size - 4:  # a length that looks like a JPEG
        return None
    return bytes(raw) if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) else None


def from_json(name: str, datatype: str, shape: tuple[int, ...], flat: list[Any]) -> Tensor:
    """The tensor of JSON values in row-major order. Raises WrongElementCount, ValueOutOfRange."""
    if len(flat) != (expected := prod(shape)):
        raise WrongElementCount(name, len(flat), shape, expected)
    kinds: set[type] = set(map(type, flat))
    if datatype == BYTES:
        if kinds - {str}:
            raise ValueOutOfRange(name, BYTES, "in JSON, BYTES data must be strings")
        return Tensor(name, BYTES, shape, [item.encode() for item in flat])
    allowed = _NUMBER_TYPES.get(datatype.rstrip("0123456789"), {int})
    if kinds - allowed:
        odd = next(item for item in flat if type(item) not in allowed)
        raise ValueOutOfRange(name, datatype, _shown(odd))
    return Tensor(name, datatype, shape, _numbers(name, datatype, flat).reshape(shape))


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return orjson.dumps(value).decode()[:40]


def _numbers(name: str, datatype: str, flat: list[Any]) -> Array:
    if datatype in ("FP16", "FP32", BF16):
        wide = np.array(flat, np.float64)
        narrow_dtype = np.float32 if datatype == BF16 else NUMPY_DTYPES[datatype]
        with np.errstate(over="ignore"):
            narrow = wide.astype(narrow_dtype)
        bits = float32_to_bf16(narrow) if datatype == BF16 else narrow
        finite = np.isfinite(bf16_to_float32(bits) if datatype == BF16 else narrow)
        if not finite.all():
            raise ValueOutOfRange(name, datatype, f"{wide[~finite][0]:g}")
        return bits
    return integers(name, datatype, flat)


def integers(name: str, datatype: str, flat: list[Any]) -> Array:
    """Converts integers to an array of the datatype. Raises ValueOutOfRange."""
    try:
        return np.array(flat, NUMPY_DTYPES[datatype])
    except OverflowError:
        limits = np.iinfo(NUMPY_DTYPES[datatype])
        odd = next(item for item in flat if not limits.min <= item <= limits.max)
        raise ValueOutOfRange(name, datatype, str(odd)[:40]) from None


def numbers_for_json(tensor: Tensor) -> Array:
    """A tensor's numbers (not BYTES) as an array that orjson can write."""
    assert not isinstance(tensor.data, list)
    array = np.ascontiguousarray(tensor.data).reshape(tensor.shape)
    return bf16_to_float32(array) if tensor.datatype == BF16 else array
