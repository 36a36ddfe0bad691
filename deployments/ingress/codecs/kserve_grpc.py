"""The Open Inference Protocol over gRPC (KServe v2).

Pure functions between messages and requests.
https://github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np

from deployments.datatypes import BYTES, DATATYPES, NUMPY_DTYPES
from deployments.errors import (
    LimitExceeded,
    MalformedBody,
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
from deployments.ingress.codecs import kserve_rest
from deployments.ingress.codecs.protobuf_fields import BYTES as LENGTH_DELIMITED
from deployments.ingress.codecs.protobuf_fields import fields
from deployments.ingress.codecs.values import check_inputs, declared, from_binary, integers
from deployments.ingress.protos import kserve_v2_pb2 as pb
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, to_bytes
from deployments.transport.batches import INLINE_BYTES

_RAW: Final = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_QUICKLY_COPIED_BYTES: Final = 4 * 2**20

Inference: TypeAlias = tuple[pb.ModelInferRequest, list[bytes | memoryview]]


# Requests ---------------------------------------------------------------------------------------


def read_request(message: bytes, limits: Limits) -> Inference:
    """Parses a message without its raw_input_contents, and returns those as views of it.

    protobuf would copy them twice. It still parses all other fields and reports malformed ones;
    `limits.json_bytes` limits what it parses. Raises DecodeError, LimitExceeded.
    """
    view, position, others = memoryview(message), 0, list[memoryview]()
    contents: list[bytes | memoryview] = []
    for field in fields(view):
        if field.number == _RAW and field.kind == LENGTH_DELIMITED:
            contents.append(view[field.start : field.end])
        else:
            others.append(view[field.begin : field.end])
        position = field.end
    others.append(view[position:])
    if (size := sum(map(len, others))) > limits.json_bytes:
        what = "message without its raw_input_contents"
        raise LimitExceeded(what, size, "json_bytes", limits.json_bytes)
    request = pb.ModelInferRequest.FromString(b"".join(others))
    return request, [*contents, *request.raw_input_contents]


def parsing_bytes(message: pb.ModelInferRequest, contents: Sequence[bytes | memoryview]) -> int:
    """The bytes of a request that Python code processes or that take long to copy."""
    raw = sum(map(len, contents))
    strings = any(entry.datatype == BYTES for entry in message.inputs)
    return message.ByteSize() + (raw if strings or raw > _QUICKLY_COPIED_BYTES else 0)


def parse_request(
    message: pb.ModelInferRequest,
    contents: Sequence[bytes | memoryview],
    limits: Limits,
    space: Callable[[int], Array],
) -> InferRequest:
    """The request in a message and its raw_input_contents; copies large ones to `space`.

    Raises a ServingError for an invalid request.
    """
    check_inputs(len(message.inputs), limits)
    if contents:
        tensors = _raw(message, contents, limits, space)
    else:
        tensors = tuple(_typed(entry, limits) for entry in message.inputs)
    return InferRequest(
        tensors=tensors,
        outputs=wanted_outputs(
            (entry.name, _parameters(entry.parameters)) for entry in message.outputs
        ),
        id=message.id or None,
        parameters=_parameters(message.parameters),
        input_parameters={entry.name: _parameters(entry.parameters) for entry in message.inputs},
    )


def _raw(
    message: pb.ModelInferRequest,
    contents: Sequence[bytes | memoryview],
    limits: Limits,
    space: Callable[[int], Array],
) -> tuple[Tensor, ...]:
    entries = message.inputs
    if len(entries) != len(contents):
        raise MalformedBody(f"{len(contents)} raw_input_contents for {len(entries)} inputs")
    for entry in entries:
        if entry.HasField("contents"):
            raise MalformedBody(f"input '{entry.name}' has both contents and raw_input_contents")
    tensors = []
    for entry, content in zip(entries, contents, strict=True):
        datatype, shape = declared(entry.name, entry.datatype, entry.shape, limits)
        raw = np.frombuffer(content, np.uint8)
        if datatype != BYTES and raw.size > INLINE_BYTES:
            raw = space(raw.size)
            raw[:] = np.frombuffer(content, np.uint8)
        tensors.append(from_binary(entry.name, datatype, shape, raw))
    return tuple(tensors)


def _typed(entry: pb.ModelInferRequest.InferInputTensor, limits: Limits) -> Tensor:
    name = entry.name
    datatype, shape = declared(name, entry.datatype, entry.shape, limits)
    field = DATATYPES[datatype].contents
    if field is None:
        raise MalformedBody(
            f"input '{name}' is {datatype}, which travels in raw_input_contents only"
        )
    for given, _ in entry.contents.ListFields():
        if given.name != field:
            raise MalformedBody(f"input '{name}' is {datatype} and has {given.name}, not {field}")
    values = getattr(entry.contents, field)
    expected = prod(shape)
    if len(values) != expected:
        raise WrongElementCount(name, len(values), shape, expected)
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, list(values))
    if NUMPY_DTYPES[datatype].kind in "iu":
        array = integers(name, datatype, list(values))
    else:
        array = np.array(values, NUMPY_DTYPES[datatype])
    return Tensor(name, datatype, shape, array.reshape(shape))


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    choices = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {
        name: None if choice is None else getattr(parameters[name], choice)
        for name, choice in choices.items()
    }


# Responses --------------------------------------------------------------------------------------


def encode_response(response: InferResponse) -> pb.ModelInferResponse:
    """Encodes a response, with all outputs in raw_output_contents."""
    message = pb.ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id or ""
    )
    for tensor in response.tensors:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(bytes(to_bytes(tensor)))
    return message


def encode_metadata(info: ModelInfo) -> pb.ModelMetadataResponse:
    """Encodes the model metadata response; open dimensions are -1."""
    return pb.ModelMetadataResponse(
        name=info.name,
        versions=info.versions,
        platform="openvino",
        inputs=_described(info.inputs),
        outputs=_described(info.outputs),
    )


def encode_config(info: ModelInfo) -> pb.ModelConfigResponse:
    """Encodes Triton's model configuration, which its clients read beside the metadata."""
    return pb.ModelConfigResponse(config=kserve_rest.model_config(info))


def _described(
    specs: Sequence[InputSpec | OutputSpec],
) -> Iterable[pb.ModelMetadataResponse.TensorMetadata]:
    for spec in specs:
        yield pb.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=spec.datatype, shape=spec.sizes
        )
