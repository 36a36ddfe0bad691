"""TensorFlow Serving's REST API: pure functions between JSON and requests.

https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from deployments.datatypes import BYTES, DATATYPES
from deployments.errors import LimitExceeded, MalformedBody, UnknownInput
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.ingress.codecs.tfs import (
    MAP_TYPE,
    METHOD,
    SIGNATURE,
    VersionStatus,
    check_signature,
)
from deployments.ingress.codecs.values import (
    check_inputs,
    declared,
    from_json,
    json_object,
    numbers_for_json,
)
from deployments.settings import Limits
from deployments.tensors import Array, Tensor

# Requests ---------------------------------------------------------------------------------------


def parse_request(body: Array, info: ModelInfo, limits: Limits) -> tuple[InferRequest, bool]:
    """The request in `body`, a uint8 vector, and whether it is in row format.

    This JSON has no datatypes: numbers get the datatype of the model's input, strings and
    `{"b64": ...}` are BYTES.
    """
    message = json_object(body, limits)
    check_signature(message.get("signature_name"))
    by_row = "instances" in message
    if by_row == ("inputs" in message):
        raise MalformedBody("it must have either 'instances' (rows) or 'inputs' (columns)")
    columns = _from_rows(message["instances"], info) if by_row else _named(message["inputs"], info)
    check_inputs(len(columns), limits)
    specs = {spec.name: spec for spec in info.inputs}
    for name in columns:
        if name not in specs:
            raise UnknownInput(info.name, name, list(specs))
    tensors = tuple(_tensor(specs[name], value, limits) for name, value in columns.items())
    return InferRequest(tensors), by_row


def _is_encoded(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _named(value: Any, info: ModelInfo) -> Mapping[str, Any]:
    """Values by input; for a model with one input they may lack its name."""
    if isinstance(value, dict) and not _is_encoded(value):
        return value
    if len(info.inputs) == 1:
        return {info.inputs[0].name: value}
    names = ", ".join(spec.name for spec in info.inputs)
    raise MalformedBody(f"values have no names, model '{info.name}' has the inputs {names}")


def _from_rows(instances: Any, info: ModelInfo) -> Mapping[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise MalformedBody("'instances' is not a list of at least one instance")
    if not all(isinstance(row, dict) and not _is_encoded(row) for row in instances):
        return _named(instances, info)
    names = instances[0].keys()
    for place, row in enumerate(instances):
        if row.keys() != names:
            raise MalformedBody(f"instance {place} has other inputs than instance 0")
    return {name: [row[name] for row in instances] for name in names}


def _tensor(spec: InputSpec, value: Any, limits: Limits) -> Tensor:
    shape, flat = _flattened(spec.name, value, limits)
    if spec.datatype == BYTES or any(isinstance(item, str | dict) for item in flat):
        declared(spec.name, BYTES, shape, limits)
        strings = [_string(spec.name, item) for item in flat]
        return Tensor(spec.name, BYTES, shape, strings)
    declared(spec.name, spec.datatype, shape, limits)
    return from_json(spec.name, spec.datatype, shape, flat)


def _flattened(name: str, value: Any, limits: Limits) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their values in row-major order."""
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        if any(type(item) is not list or len(item) != len(level[0]) for item in level):
            raise MalformedBody(f"the lists of input '{name}' are not of one length at one depth")
        shape.append(len(level[0]))
        if len(shape) > limits.rank:
            raise LimitExceeded(f"rank of input '{name}'", len(shape), "rank", limits.rank)
        level = list(chain.from_iterable(level))
    if any(type(item) is list for item in level):
        raise MalformedBody(f"the lists of input '{name}' are not of one length at one depth")
    return tuple(shape), level


def _string(name: str, item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if not _is_encoded(item) or not isinstance(item["b64"], str):
        raise MalformedBody(f"input '{name}' has a value that is not a string or {{\"b64\": ...}}")
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise MalformedBody(f"input '{name}' has a b64 value that is not base64") from None


# Responses --------------------------------------------------------------------------------------


def encode_response(response: InferResponse, by_row: bool) -> bytes:
    """Encodes a response in the request's format; a single output comes without its name."""
    values = {tensor.name: _values(tensor) for tensor in response.tensors}
    content: Any = values
    if len(values) == 1:
        (content,) = values.values()
    elif by_row:
        content = _rows(values)
    key = "predictions" if by_row else "outputs"
    return orjson.dumps({key: content}, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(tensor: Tensor) -> Any:
    if isinstance(tensor.data, list):
        strings = np.empty(len(tensor.data), object)
        strings[:] = [_text(item) for item in tensor.data]
        return strings.reshape(tensor.shape).tolist()
    array = numbers_for_json(tensor)
    return array if array.ndim else array.item()


def _text(item: bytes) -> str | dict[str, str]:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}


def _rows(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = {
        name: len(value) if hasattr(value, "__len__") else 0 for name, value in values.items()
    }
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise MalformedBody(
            f"the outputs have different numbers of rows ({shown}): send 'inputs' instead of "
            "'instances'"
        )
    rows = next(iter(counts.values()))
    return [{name: value[row] for name, value in values.items()} for row in range(rows)]


def encode_status(statuses: Sequence[VersionStatus]) -> dict[str, Any]:
    return {
        "model_version_status": [
            {
                "version": str(status.version),
                "state": status.state,
                "status": {
                    "error_code": status.error_code,
                    "error_message": status.error_message,
                },
            }
            for status in statuses
        ]
    }


def encode_metadata(info: ModelInfo) -> dict[str, Any]:
    """Encodes the metadata; open dimensions are -1."""
    signature = {
        "inputs": {spec.name: _described(spec) for spec in info.inputs},
        "outputs": {spec.name: _described(spec) for spec in info.outputs},
        "methodName": METHOD,
    }
    return {
        "modelSpec": {"name": info.name, "signatureName": "", "version": info.version},
        "metadata": {"signature_def": {"@type": MAP_TYPE, "signatureDef": {SIGNATURE: signature}}},
    }


def _described(spec: InputSpec | OutputSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": DATATYPES[spec.datatype].tensorflow,
        "tensorShape": {"dim": [{"size": str(size), "name": ""} for size in spec.sizes]},
    }
