"""Calls of the gRPC methods without a server: bytes in, messages and statuses out."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from deployments.inference import ModelStatus
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.grpc.methods import GrpcMethods
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.settings import Limits
from tests.ingress.replicas import Replicas, served

LOADING = ModelStatus("LOADING", "it is being downloaded")
UNAVAILABLE = ModelStatus("UNAVAILABLE", "no such file")


class Context:
    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "r1")]

    def set_details(self, details: str) -> None:
        self.details = details


def methods(
    replicas: Replicas | None = None, *, control: bool = False, **limits: Any
) -> GrpcMethods:
    model = served(replicas or Replicas(), **limits)
    return GrpcMethods(ServedModels({"doubler": model}, Limits(**limits), None, control=control))


async def asked(
    method: Callable[[bytes, Any], Awaitable[Message]], request: Message | bytes
) -> tuple[Any, Context]:
    context = Context()
    message = request if isinstance(request, bytes) else request.SerializeToString()
    return await method(message, context), context


def infer_request(*rows: float, model: str = "doubler", **fields: Any) -> kserve.ModelInferRequest:
    message = kserve.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="x", datatype="FP32", shape=[len(rows), 1])
    message.raw_input_contents.append(np.array(rows, np.float32).tobytes())
    return message


def doubled(response: Any) -> list[float]:
    values: list[float] = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
    return values
