"""TensorFlow Serving's gRPC services: pure functions between messages and requests.

https://github.com/tensorflow/serving, tensorflow_serving/apis
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Final, cast

import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage

from deployments.datatypes import BF16, BYTES, DATATYPES, NUMPY_DTYPES
from deployments.errors import (
    LimitExceeded,
    MalformedBody,
    UnknownDatatype,
    WrongElementCount,
)
from deployments.inference import (
    InferRequest,
    InferResponse,
    InputSpec,
    ModelInfo,
    OutputSpec,
    wanted_outputs,
)
from deployments.ingress.codecs.protobuf_fields import BYTES as LENGTH_DELIMITED
from deployments.ingress.codecs.protobuf_fields import fields
from deployments.ingress.codecs.tfs import (
    MAP_TYPE,
    METHOD,
    SIGNATURE,
    VersionStatus,
    check_signature,
)
from deployments.ingress.codecs.values import check_inputs, declared, integers
from deployments.ingress.protos import tensorflow_serving_pb2 as pb
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, from_bytes, to_bytes

_SIGNATURE_DEF: Final = "signature_def"
_NUMBERS: Final = {
    pb.DataType.Value(datatype.tensorflow): name for name, datatype in DATATYPES.items()
}
_INPUTS: Final = pb.PredictRequest.DESCRIPTOR.fields_by_name["inputs"].number
_MAP_VALUE: Final = 2
_CONTENTS: Final = [
    pb.TensorProto.DESCRIPTOR.fields_by_name[name].number
    for name in ("tensor_content", "string_val")
]
_ERROR_CODES: Final = {"OK": 0, "UNAVAILABLE": 14}  # google.rpc.Code


def version_and_label(spec: pb.ModelSpec) -> tuple[str | None, str | None]:
    """The version or the label that a request names; version 0 stands for the default one."""
    if spec.HasField("version_label"):
        return None, spec.version_label
    return str(spec.version.value) if spec.version.value else None, None


# Requests ---------------------------------------------------------------------------------------


def read_request(message: bytes, limits: Limits) -> pb.PredictRequest:
    """Parses a message, whose parts outside tensor_content and string_val are limited.

    The limit is `limits.json_bytes`. Raises DecodeError, LimitExceeded.
    """
    if len(message) > limits.json_bytes:
        size = len(message) - sum(_content_bytes(memoryview(message)))
        if size > limits.json_bytes:
            what = "message without its tensor_content and string_val"
            raise LimitExceeded(what, size, "json_bytes", limits.json_bytes)
    return pb.PredictRequest.FromString(message)


def _content_bytes(message: memoryview) -> Iterator[int]:
    for entry in _within(message, _INPUTS):
        for tensor in _within(entry, _MAP_VALUE):
            yield from (len(content) for content in _within(tensor, *_CONTENTS))


def _within(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    for field in fields(message):
        if field.number in numbers and field.kind == LENGTH_DELIMITED:
            yield message[field.start : field.end]


def parsing_bytes(message: pb.PredictRequest) -> int:
    """The bytes of a request that Python code processes or fills in."""
    claimed = sum(prod(d.size for d in t.tensor_shape.dim) for t in message.inputs.values())
    return max(message.ByteSize(), claimed)


def parse_request(message: pb.PredictRequest, limits: Limits) -> InferRequest:
    """The request in a message. Raises a ServingError for an invalid one."""
    check_signature(message.model_spec.signature_name)
    check_inputs(len(message.inputs), limits)
    wanted = wanted_outputs((name, {}) for name in message.output_filter)
    tensors: list[Tensor] = []
    left = limits.body_bytes
    for name, tensor in message.inputs.items():
        tensors.append(_tensor(name, tensor, limits, left))
        left -= tensors[-1].nbytes
    return InferRequest(tuple(tensors), wanted)


def _tensor(name: str, tensor: pb.TensorProto, limits: Limits, left: int) -> Tensor:
    """Decodes a tensor of at most `left` bytes: one value may stand for many."""
    known = _NUMBERS.get(tensor.dtype)
    if known is None:
        raise UnknownDatatype(name, f"number {tensor.dtype}")
    if tensor.tensor_shape.unknown_rank:
        raise MalformedBody(f"input '{name}' has a shape of unknown rank")
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    datatype, shape = declared(name, known, sizes, limits)
    if tensor.tensor_content and datatype != BYTES:
        return from_bytes(name, datatype, shape, np.frombuffer(tensor.tensor_content, np.uint8))
    values, expected = list(getattr(tensor, DATATYPES[datatype].values)), prod(shape)
    if len(values) > expected or (expected and not values):
        raise WrongElementCount(name, len(values), shape, expected)
    each = len(values[-1]) if datatype == BYTES and values else 0
    nbytes = expected * (each if datatype == BYTES else NUMPY_DTYPES[datatype].itemsize)
    if len(values) < expected and nbytes > left:
        what = f"size in bytes of the inputs up to '{name}', whose last value stands for the rest,"
        raise LimitExceeded(
            what, limits.body_bytes - left + nbytes, "body_bytes", limits.body_bytes
        )
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, values + values[-1:] * (expected - len(values)))
    array = np.empty(expected, NUMPY_DTYPES[datatype])
    array[: len(values)] = _array(name, datatype, values)
    array[len(values) :] = array[len(values) - 1 : len(values)]
    return Tensor(name, datatype, shape, array.reshape(shape))


def _array(name: str, datatype: str, values: list[Any]) -> Array:
    if datatype in ("FP16", BF16):  # the values are the bits
        return integers(name, "UINT16", values).view(NUMPY_DTYPES[datatype])
    if NUMPY_DTYPES[datatype].kind in "iu":
        return integers(name, datatype, values)
    return np.array(values, NUMPY_DTYPES[datatype])


# Responses --------------------------------------------------------------------------------------


def encode_response(response: InferResponse) -> pb.PredictResponse:
    """Encodes a response, with all outputs in tensor_content and strings in string_val."""
    message = pb.PredictResponse(model_spec=_model_spec(response.model, response.version))
    message.model_spec.signature_name = SIGNATURE
    for tensor in response.tensors:
        output = message.outputs[tensor.name]
        output.dtype = _dtype(tensor.datatype)
        output.tensor_shape.CopyFrom(_shape(tensor.shape))
        if isinstance(tensor.data, list):
            output.string_val.extend(tensor.data)
        else:
            output.tensor_content = bytes(to_bytes(tensor))
    return message


def _model_spec(name: str, version: str) -> pb.ModelSpec:
    spec = pb.ModelSpec(name=name)
    spec.version.value = int(version)
    return spec


def _shape(sizes: Sequence[int]) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def encode_metadata(info: ModelInfo, fields: Sequence[str]) -> pb.GetModelMetadataResponse:
    """Encodes the signature, the only metadata field; open dimensions are -1."""
    if list(fields) != [_SIGNATURE_DEF]:
        asked = ", ".join(fields)[:100] or "nothing"
        raise MalformedBody(f"metadata_field is {asked}, there is only '{_SIGNATURE_DEF}'")
    signature = pb.SignatureDef(
        inputs={spec.name: _described(spec) for spec in info.inputs},
        outputs={spec.name: _described(spec) for spec in info.outputs},
        method_name=METHOD,
    )
    signatures = pb.SignatureDefMap(signature_def={SIGNATURE: signature})
    packed = AnyMessage(type_url=MAP_TYPE, value=signatures.SerializeToString())
    return pb.GetModelMetadataResponse(
        model_spec=_model_spec(info.name, info.version), metadata={_SIGNATURE_DEF: packed}
    )


def _described(spec: InputSpec | OutputSpec) -> pb.TensorInfo:
    return pb.TensorInfo(
        name=spec.name, dtype=_dtype(spec.datatype), tensor_shape=_shape(spec.sizes)
    )


def _dtype(datatype: str) -> pb.DataType:
    return cast("pb.DataType", pb.DataType.Value(DATATYPES[datatype].tensorflow))


def encode_status(statuses: Sequence[VersionStatus]) -> pb.GetModelStatusResponse:
    return pb.GetModelStatusResponse(
        model_version_status=[
            pb.ModelVersionStatus(
                version=status.version,
                state=status.state,
                status=pb.StatusProto(
                    error_code=_ERROR_CODES[status.error_code],
                    error_message=status.error_message,
                ),
            )
            for status in statuses
        ]
    )
