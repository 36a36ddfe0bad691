"""Encodes and decodes inferences with tensors of every datatype, without the server's code."""

import json
import struct
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeAlias

import grpc
import httpx
import numpy as np

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.ingress.protos import kserve_v2_pb2 as pb
from deployments.tensors import Tensor
from tests.e2e.client import HEADER_LENGTH
from tests.e2e.server import NO_TLS, Server

Form: TypeAlias = Literal["binary", "json", "grpc"]
FORMS: tuple[Form, ...] = ("binary", "json", "grpc")


class Refused(Exception):
    """Raised when the server answers with an error; has the status and the text."""

    def __init__(self, status: object, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


def asked(server: Server, model: str, tensors: Sequence[Tensor], form: Form) -> list[Tensor]:
    """Sends an inference; returns all outputs in the order of the answer. Raises Refused."""
    if form == "grpc":
        return _over_grpc(server, model, tensors)
    body, headers = request_body(tensors, binary=form == "binary")
    url = f"{server.url}{server.path(model)}/infer"
    return outputs_of(httpx.post(url, content=body, headers=headers, timeout=50, verify=NO_TLS))


def request_body(tensors: Sequence[Tensor], *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request whose tensors and outputs are all binary, or all JSON."""
    entries = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        | (
            {"parameters": {"binary_data_size": len(_raw(tensor))}}
            if binary
            else {"data": _values(tensor)}
        )
        for tensor in tensors
    ]
    message = {"inputs": entries, "parameters": {"binary_data_output": binary}}
    head = json.dumps(message).encode()
    if not binary:
        return head, {}
    return head + b"".join(map(_raw, tensors)), {HEADER_LENGTH: str(len(head))}


def outputs_of(response: httpx.Response) -> list[Tensor]:
    if response.status_code != 200:
        raise Refused(response.status_code, response.json()["error"])
    length = int(response.headers.get(HEADER_LENGTH, len(response.content)))
    outputs, position = [], length
    for entry in json.loads(response.content[:length])["outputs"]:
        name, datatype, shape = entry["name"], entry["datatype"], tuple(entry["shape"])
        if "data" in entry:
            outputs.append(_from_values(name, datatype, shape, entry["data"]))
            continue
        end = position + entry["parameters"]["binary_data_size"]
        outputs.append(_from_raw(name, datatype, shape, response.content[position:end]))
        position = end
    assert position == len(response.content)
    return outputs


def _over_grpc(server: Server, model: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(name=t.name, datatype=t.datatype, shape=t.shape)
        for t in tensors
    ]
    name, version = server.model(model)
    request = pb.ModelInferRequest(
        model_name=name,
        model_version=version,
        inputs=inputs,
        raw_input_contents=map(_raw, tensors),
    )
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        try:
            answer = infer(request, timeout=50)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details() or "") from None
    return [
        _from_raw(output.name, output.datatype, tuple(output.shape), raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    ]


def _raw(tensor: Tensor) -> bytes:
    if isinstance(tensor.data, list):
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.data)
    return tensor.data.tobytes()


def _from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    if datatype != BYTES:
        data = np.frombuffer(raw, NUMPY_DTYPES[datatype]).reshape(shape)
        return Tensor(name, datatype, shape, data)
    strings, position = [], 0
    for _ in range(prod(shape)):
        (length,) = struct.unpack_from("<I", raw, position)
        strings.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    assert position == len(raw)
    return Tensor(name, BYTES, shape, strings)


def _values(tensor: Tensor) -> list[Any]:
    if isinstance(tensor.data, list):
        return [item.decode() for item in tensor.data]
    flat = tensor.data.ravel()
    if tensor.datatype == BF16:  # the upper half of a float's bits
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return list(flat.tolist())


def _from_values(name: str, datatype: str, shape: tuple[int, ...], values: list[Any]) -> Tensor:
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, [text.encode() for text in values])
    if datatype == BF16:
        bits = np.array(values, np.float32).view(np.uint32)
        assert not np.any(bits & 0xFFFF), "more digits than the datatype has"
        return Tensor(name, BF16, shape, (bits >> 16).astype(np.uint16).reshape(shape))
    data = np.array(values, NUMPY_DTYPES[datatype]).reshape(shape)
    return Tensor(name, datatype, shape, data)
