"""The Open Inference Protocol over HTTP (KServe v2) with its binary tensor data extension.

Pure functions between bytes and requests. Unknown fields are ignored, as the specification
says. https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import orjson

from deployments.dimensions import Dim
from deployments.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedBody,
    UnknownDatatype,
    ValueOutOfRange,
    WrongElementCount,
)
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.settings import Limits
from deployments.tensors import (
    BF16,
    BYTES,
    DATATYPES,
    NUMPY_DTYPES,
    Array,
    Tensor,
    bf16_to_float32,
    checked_shape,
    float32_to_bf16,
    from_bytes,
    to_bytes,
)

HEADER_LENGTH: Final = "inference-header-content-length"
_NUMBER_TYPES: Final[dict[str, set[type]]] = {
    "BOOL": {bool},
    "FP": {int, float},
    "BF": {int, float},
}


# Requests ---------------------------------------------------------------------------------------


def parse_request(body: Array, header_length: int | None, limits: Limits) -> InferRequest:
    """The request in `body`, a uint8 vector; numbers of the binary part are not copied.

    `header_length` is the value of the header `Inference-Header-Content-Length`, the length of
    the JSON part, None where the header is missing and all of the body is JSON.
    """
    json_length = body.size if header_length is None else header_length
    if not 0 <= json_length <= body.size:
        raise MalformedBody(f"{HEADER_LENGTH} is {json_length}, the body has {body.size} bytes")
    if json_length > limits.json_bytes:
        raise LimitExceeded("JSON part", json_length, "json_bytes", limits.json_bytes)
    message = _json_object(body[:json_length], limits)
    binary = _Binary(body[json_length:])
    entries = _objects(message, "inputs", required=True)
    if len(entries) > limits.inputs:
        raise LimitExceeded("number of inputs", len(entries), "inputs", limits.inputs)
    tensors = tuple(_input(entry, binary, limits, last=entry is entries[-1]) for entry in entries)
    binary.expect_end()
    return InferRequest(
        tensors=tensors,
        outputs=_wanted_outputs(message),
        id=_optional_string(message, "id"),
        parameters=_parameters(message),
        input_parameters={str(entry["name"]): _parameters(entry) for entry in entries},
    )


class _Binary:
    """The binary part of a body, read from front to back."""

    def __init__(self, raw: Array) -> None:
        self._raw = raw
        self._position = 0

    @property
    def rest(self) -> int:
        return int(self._raw.size) - self._position

    def take(self, name: str, nbytes: int) -> Array:
        if nbytes > self.rest:
            raise MalformedBody(
                f"input '{name}' needs {nbytes} bytes of binary data, {self.rest} are left"
            )
        self._position += nbytes
        return self._raw[self._position - nbytes : self._position]

    def expect_end(self) -> None:
        if self.rest:
            raise MalformedBody(f"{self.rest} bytes of binary data belong to no input")


def _json_object(raw: Array, limits: Limits) -> dict[str, Any]:
    try:
        message = orjson.loads(raw.data)
    except orjson.JSONDecodeError as error:
        # orjson's own text, without the excerpt: position and what was expected.
        raise MalformedBody(f"invalid JSON, {error.msg} at byte {error.pos}") from None
    if not isinstance(message, dict):
        raise MalformedBody("the JSON is not an object")
    _check_depth(message, limits.json_depth)
    return message


def _check_depth(message: dict[str, Any], limit: int) -> None:
    """Bounds the nesting of everything but tensor data, which the shape bounds."""
    level: list[Any] = [message]
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise LimitExceeded("JSON depth", depth, "json_depth", limit)
        level = [
            child
            for container in level
            for child in _children(container)
            if isinstance(child, dict | list)
        ]


def _children(container: Any) -> Iterable[Any]:
    if isinstance(container, list):
        return container
    return (child for key, child in container.items() if key != "data")


def _objects(message: dict[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    entries = message.get(key)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MalformedBody(f"'{key}' is not a list of objects")
    for entry in entries:
        if not isinstance(entry.get("name"), str):
            raise MalformedBody(f"an entry of '{key}' has no name")
    return entries


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise MalformedBody("'parameters' is not an object")
    return parameters or {}


def _optional_string(message: dict[str, Any], key: str) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise MalformedBody(f"'{key}' is not a string")
    return value


def _wanted_outputs(message: dict[str, Any]) -> dict[str, Mapping[str, Any]]:
    wanted: dict[str, Mapping[str, Any]] = {}
    for entry in _objects(message, "outputs", required=False):
        if entry["name"] in wanted:
            raise DuplicateName("output", entry["name"])
        wanted[entry["name"]] = _parameters(entry)
    return wanted


def _input(entry: dict[str, Any], binary: _Binary, limits: Limits, *, last: bool) -> Tensor:
    name, datatype = entry["name"], entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise UnknownDatatype(name, str(datatype)[:40])
    shape = checked_shape(name, entry.get("shape"), rank=limits.rank, elements=limits.elements)
    if datatype == BYTES and (count := prod(shape)) > limits.strings:
        raise LimitExceeded(f"element count of input '{name}'", count, "strings", limits.strings)
    size = _parameters(entry).get("binary_data_size")
    if "data" in entry:
        if size is not None:
            raise MalformedBody(f"input '{name}' has both 'data' and 'binary_data_size'")
        return _from_json(name, datatype, shape, entry["data"])
    if size is None:
        size = _implied_size(name, datatype, shape, binary, last=last)
    if type(size) is not int or size < 0:
        shown = str(size)[:40]
        raise MalformedBody(f"input '{name}' has binary_data_size {shown}, not an integer >= 0")
    raw = binary.take(name, size)
    if datatype == BYTES and prod(shape) == 1 and (picture := _bare_picture(raw)) is not None:
        return Tensor(name, BYTES, shape, [picture])
    return from_bytes(name, datatype, shape, raw)


def _implied_size(
    name: str, datatype: str, shape: tuple[int, ...], binary: _Binary, *, last: bool
) -> int:
    """The size of binary data that a request leaves out where it follows from the rest."""
    if datatype != BYTES:
        needed = prod(shape) * NUMPY_DTYPES[datatype].itemsize
        if needed and not binary.rest:
            raise MalformedBody(f"input '{name}' has neither 'data' nor binary data")
        return needed
    if not last:
        raise MalformedBody(f"input '{name}' is BYTES and lacks binary_data_size")
    return binary.rest


def _bare_picture(raw: Array) -> bytes | None:
    """A single picture that was sent without the length that BYTES elements start with."""
    head = bytes(raw[:8])
    if int.from_bytes(head[:4], "little") == raw.size - 4:  # a length that looks like a JPEG
        return None
    return bytes(raw) if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) else None


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    flat = _flattened(name, shape, data)
    if len(flat) != (expected := prod(shape)):
        raise WrongElementCount(name, len(flat), shape, expected)
    kinds: set[type] = set(map(type, flat))
    if datatype == BYTES:
        if kinds - {str}:
            raise ValueOutOfRange(name, BYTES, "JSON data of BYTES are strings")
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


def _flattened(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """JSON data is flat or nested as the shape is; row-major either way."""
    if not isinstance(data, list):
        if shape == ():
            return [data]
        raise MalformedBody(f"'data' of input '{name}' is not a list")
    level = data
    for axis in range(len(shape)):
        if not level or not isinstance(level[0], list):
            return level
        if len(level) != prod(shape[: axis + 1]) or any(type(item) is not list for item in level):
            raise MalformedBody(f"'data' of input '{name}' is not nested as its shape")
        if set(map(len, level)) != {shape[axis + 1] if axis + 1 < len(shape) else None}:
            raise MalformedBody(f"'data' of input '{name}' is not nested as its shape")
        level = list(chain.from_iterable(level))
    return level


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
    try:
        return np.array(flat, NUMPY_DTYPES[datatype])
    except OverflowError:
        limits = np.iinfo(NUMPY_DTYPES[datatype])
        odd = next(item for item in flat if not limits.min <= item <= limits.max)
        raise ValueOutOfRange(name, datatype, str(odd)[:40]) from None


# Responses --------------------------------------------------------------------------------------


def encode_response(
    response: InferResponse, request: InferRequest
) -> tuple[int | None, list[bytes | memoryview]]:
    """The JSON part's length where binary data follows it (else None), and the body's parts.

    Numbers are not copied: their part is the tensor's memory.

    An output is binary if its own parameter `binary_data` says so, else if the request's
    `binary_data_output` does. Not-a-number and infinities are null in JSON, which has no
    words for them.
    """
    by_default = request.parameters.get("binary_data_output") is True
    entries: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for tensor in response.tensors:
        wish = request.outputs.get(tensor.name, {}).get("binary_data", by_default)
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if wish is True:
            raw = to_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = _json_data(tensor)
        entries.append(entry)
    message: dict[str, Any] = {
        "model_name": response.model,
        "model_version": response.version,
        "outputs": entries,
    }
    if response.id is not None:
        message["id"] = response.id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return (len(head) if parts else None), [head, *parts]


def _json_data(tensor: Tensor) -> Any:
    if isinstance(tensor.data, list):
        return [item.decode(errors="replace") for item in tensor.data]
    flat = np.ascontiguousarray(tensor.data).reshape(-1)
    return bf16_to_float32(flat) if tensor.datatype == BF16 else flat


def encode_metadata(info: ModelInfo) -> bytes:
    """The model metadata response; open dimensions are -1."""
    return orjson.dumps(
        {
            "name": info.name,
            "versions": info.versions,
            "platform": "openvino",
            "inputs": [_described(spec) for spec in info.inputs],
            "outputs": [_described(spec) for spec in info.outputs],
        }
    )


def _described(spec: InputSpec | OutputSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": [_size(dim) for dim in spec.dims],
    }


def _size(dim: Dim) -> int:
    return -1 if dim.fixed is None else dim.fixed
