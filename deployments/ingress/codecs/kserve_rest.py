"""The Open Inference Protocol over HTTP (KServe v2) with its binary tensor data extension.

Pure functions between bytes and requests; only `RequestParser` keeps state. Unknown fields are
ignored, as the specification says.
https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any, Final

import orjson

from deployments.datatypes import BYTES, COMPUTED_IN, DATATYPES, NUMPY_DTYPES
from deployments.errors import LimitExceeded, MalformedBody
from deployments.inference import (
    InferRequest,
    InferResponse,
    InputSpec,
    ModelInfo,
    OutputSpec,
    wanted_outputs,
)
from deployments.ingress.codecs.response_heads import all_binary
from deployments.ingress.codecs.values import (
    check_inputs,
    declared,
    from_binary,
    from_json,
    json_object,
    numbers_for_json,
)
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, numbers, to_bytes

HEADER_LENGTH: Final = "inference-header-content-length"
# The Python objects of a kilobyte of JSON may take 30 times as much memory.
_REMEMBERED_BYTES: Final = 1024
_REMEMBERED_HEADS: Final = 256


# Requests ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    """A remembered JSON part, which has all of its request but the numbers after it."""

    inputs: tuple[tuple[str, str, tuple[int, ...], int], ...]
    request: InferRequest

    def with_numbers(self, raw: Array) -> InferRequest:
        binary = _Binary(raw)
        tensors = []
        for name, datatype, shape, size in self.inputs:
            data = numbers(binary.take(name, size), NUMPY_DTYPES[datatype], shape)
            tensors.append(Tensor(name, datatype, shape, data))
        binary.expect_end()
        request = self.request
        rest = request.outputs, request.id, request.parameters, request.input_parameters
        return InferRequest(tuple(tensors), *rest)


class RequestParser:
    """Parses requests, and remembers their JSON parts, because clients repeat them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heads: dict[bytes, _Head] = {}

    def parse(self, body: Array, header_length: int | None) -> InferRequest:
        """The request in `body`, a uint8 vector; numbers of the binary part are not copied.

        `header_length` is the value of the header `Inference-Header-Content-Length`, the length of
        the JSON part; None if the header is missing, and then all of the body is JSON.
        """
        json_length = body.size if header_length is None else header_length
        if not 0 <= json_length <= body.size:
            raise MalformedBody(f"{HEADER_LENGTH} is {json_length}, the body has {body.size} bytes")
        request, only_numbers_follow = _parsed(body, json_length, self._limits)
        if only_numbers_follow and request.id is None and json_length <= _REMEMBERED_BYTES:
            self._remember(body[:json_length].tobytes(), request)
        return request

    def known(self, body: Array, header_length: int | None) -> InferRequest | None:
        """Returns or raises what `parse` does, faster; None if the JSON part is not remembered."""
        if header_length is None or not 0 <= header_length <= min(body.size, _REMEMBERED_BYTES):
            return None
        head = self._heads.get(body[:header_length].tobytes())
        return None if head is None else head.with_numbers(body[header_length:])

    def _remember(self, json: bytes, request: InferRequest) -> None:
        if len(self._heads) >= _REMEMBERED_HEADS:
            self._heads.clear()
        inputs = tuple((t.name, t.datatype, t.shape, t.nbytes) for t in request.tensors)
        self._heads[json] = _Head(inputs, replace(request, tensors=()))


def _parsed(body: Array, json_length: int, limits: Limits) -> tuple[InferRequest, bool]:
    """The request, and whether all inputs are numbers whose size the JSON part has."""
    message = json_object(body[:json_length], limits)
    _check_depth(message, limits.json_depth)
    binary = _Binary(body[json_length:])
    entries = _objects(message, "inputs", required=True)
    check_inputs(len(entries), limits)
    tensors = tuple(_input(entry, binary, limits, last=entry is entries[-1]) for entry in entries)
    binary.expect_end()
    request = InferRequest(
        tensors=tensors,
        outputs=_wanted_outputs(message),
        id=_optional_string(message, "id"),
        parameters=_parameters(message),
        input_parameters={str(entry["name"]): _parameters(entry) for entry in entries},
    )
    sized = all(_parameters(entry).get("binary_data_size") is not None for entry in entries)
    return request, sized and all(tensor.datatype != BYTES for tensor in tensors)


def parse_index_request(body: Array, limits: Limits) -> bool:
    """Whether an index request asks only for ready models (Triton's model repository extension)."""
    ready = json_object(body, limits).get("ready", False) if body.size else False
    if not isinstance(ready, bool):
        raise MalformedBody("'ready' is not true or false")
    return ready


class _Binary:
    """The binary part of a body, read from front to back."""

    def __init__(self, raw: Array) -> None:
        self._raw = raw
        self._position = 0

    @property
    def remaining(self) -> int:
        return int(self._raw.size) - self._position

    def take(self, name: str, nbytes: int) -> Array:
        if nbytes > self.remaining:
            raise MalformedBody(
                f"input '{name}' needs {nbytes} bytes of binary data, {self.remaining} are left"
            )
        self._position += nbytes
        return self._raw[self._position - nbytes : self._position]

    def expect_end(self) -> None:
        if self.remaining:
            raise MalformedBody(f"{self.remaining} bytes of binary data belong to no input")


def _check_depth(message: dict[str, Any], limit: int) -> None:
    """Raises LimitExceeded if anything but tensor data, which the shape bounds, nests too deep."""
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
    entries = _objects(message, "outputs", required=False)
    return wanted_outputs((entry["name"], _parameters(entry)) for entry in entries)


def _input(entry: dict[str, Any], binary: _Binary, limits: Limits, *, last: bool) -> Tensor:
    name = entry["name"]
    datatype, shape = declared(name, entry.get("datatype"), entry.get("shape"), limits)
    size = _parameters(entry).get("binary_data_size")
    if "data" in entry:
        if size is not None:
            raise MalformedBody(f"input '{name}' has both 'data' and 'binary_data_size'")
        return from_json(name, datatype, shape, _flattened(name, shape, entry["data"]))
    if size is None:
        size = _implied_size(name, datatype, shape, binary, last=last)
    if type(size) is not int or size < 0:
        shown = str(size)[:40]
        raise MalformedBody(f"input '{name}' has binary_data_size {shown}, not an integer >= 0")
    return from_binary(name, datatype, shape, binary.take(name, size))


def _implied_size(
    name: str, datatype: str, shape: tuple[int, ...], binary: _Binary, *, last: bool
) -> int:
    """The size of binary data that a request leaves out where it follows from the rest."""
    if datatype != BYTES:
        needed = prod(shape) * NUMPY_DTYPES[datatype].itemsize
        if needed and not binary.remaining:
            raise MalformedBody(f"input '{name}' has neither 'data' nor binary data")
        return needed
    if not last:
        raise MalformedBody(f"input '{name}' is BYTES and lacks binary_data_size")
    return binary.remaining


def _flattened(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """Flattens JSON data, which is flat or nested like the shape, and row-major in both cases."""
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


# Responses --------------------------------------------------------------------------------------


def encode_response(
    response: InferResponse, request: InferRequest
) -> tuple[int | None, list[bytes | memoryview]]:
    """The JSON part's length if binary data follows it (else None), and the body's parts.

    Numbers are not copied: their part is the tensor's memory.

    The output's own parameter `binary_data` decides whether it is binary, else the request's
    `binary_data_output`. NaN and infinities become null in JSON, which cannot express them.
    """
    by_default = request.parameters.get("binary_data_output") is True
    if by_default and response.tensors and not request.outputs and response.id is None:
        return all_binary(response)
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
    return numbers_for_json(tensor).reshape(-1)


def encode_metadata(info: ModelInfo) -> bytes:
    """Encodes the model metadata response; open dimensions are -1, known layouts are parameters."""
    return orjson.dumps(
        {
            "name": info.name,
            "versions": info.versions,
            "platform": "openvino",
            "inputs": [_described(spec) for spec in info.inputs],
            "outputs": [_described(spec) for spec in info.outputs],
        }
    )


def model_config(info: ModelInfo) -> dict[str, Any]:
    """The model configuration of Triton's extension, the part that its clients need.

    `max_batch_size` is 0, which means that shapes include the batch.
    """
    return {
        "name": info.name,
        "platform": "openvino",
        "max_batch_size": 0,
        "input": [_configured(spec) for spec in info.inputs],
        "output": [_configured(spec) for spec in info.outputs],
    }


def _configured(spec: InputSpec | OutputSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": DATATYPES[spec.datatype].triton,
        "dims": spec.sizes,
    }


def _described(spec: InputSpec | OutputSpec) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": spec.sizes,
    }
    parameters = {"layout": spec.layout, "computed_in": COMPUTED_IN.get(spec.datatype)}
    if any(parameters.values()):
        described["parameters"] = {name: value for name, value in parameters.items() if value}
    return described
