"""The gRPC methods of KServe v2, TensorFlow Serving and gRPC's health check.

A message arrives as bytes. The answer is a message, or a status with the error; Serve drops the
empty message that goes with a status.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from importlib.metadata import version as installed_version
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from deployments import timing
from deployments.errors import (
    LimitExceeded,
    MalformedBody,
    ModelNotFound,
    ModelUnavailable,
    ServingError,
)
from deployments.ingress.codecs import kserve_grpc, tfs_grpc
from deployments.ingress.dataplane.request_metrics import RequestObserver
from deployments.ingress.dataplane.served_models import ServedModels, off_loop, total_bytes
from deployments.ingress.grpc.services import SERVICES
from deployments.ingress.grpc.streams import in_order
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from deployments.settings import Limits

logger: Final = logging.getLogger("ray.serve")
T = TypeVar("T")
M = TypeVar("M", bound=Message)

_INTERNAL: Final = "internal error, the server's log has the reason"
_ASCII_DETAILS, _OTHER_DETAILS = 2000, 400
_WATCHES: Final = 10
_FINAL_ASKED: Final = "triton_enable_empty_final_response"
_FINAL: Final = "triton_final_response"


class Context(Protocol):
    """The used part of Serve's gRPC context."""

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...

    def trailing_metadata(self) -> Sequence[tuple[str, str]]: ...


def _as(request_type: type[M]) -> Callable[[bytes, Limits], M]:
    def read(message: bytes, limits: Limits) -> M:
        return request_type.FromString(message)

    return read


def _guarded(
    method: Callable[["GrpcMethods", bytes, str], Awaitable[Message]],
) -> Callable[["GrpcMethods", bytes, Context], Awaitable[Message]]:
    """Wraps a method of a message and a request id: its errors become the call's status."""

    # No functools.wraps: Serve looks for `grpc_context` in the signature.
    async def answered(self: "GrpcMethods", message: bytes, grpc_context: Context) -> Message:
        try:
            return await method(self, message, _request_id(grpc_context))
        except ServingError as error:
            _refuse(grpc_context, error)
        except Exception:
            logger.exception("unexpected error in the gRPC method %s", method.__name__)
            _refuse(grpc_context, ServingError(_INTERNAL))
        return kserve.ServerLiveRequest()  # any message

    return answered


def _answers(
    read: Callable[[bytes, Limits], T],
) -> Callable[
    [Callable[["GrpcMethods", T], Awaitable[Message]]],
    Callable[["GrpcMethods", bytes, Context], Awaitable[Message]],
]:
    """Wraps a method of a read message: it takes bytes, and its errors become the call's status."""

    def decorate(
        method: Callable[["GrpcMethods", T], Awaitable[Message]],
    ) -> Callable[["GrpcMethods", bytes, Context], Awaitable[Message]]:
        async def reading(self: "GrpcMethods", message: bytes, request_id: str) -> Message:
            return await method(self, self._read(read, message))

        reading.__name__ = method.__name__
        return _guarded(reading)

    return decorate


class GrpcMethods:
    """The methods, by the services' names: Serve calls the one at the end of a call's path."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models

    # inference.GRPCInferenceService ---------------------------------------------------------------

    @_answers(_as(kserve.ServerLiveRequest))
    async def ServerLive(self, request: kserve.ServerLiveRequest) -> Message:
        return kserve.ServerLiveResponse(live=True)

    @_answers(_as(kserve.ServerReadyRequest))
    async def ServerReady(self, request: kserve.ServerReadyRequest) -> Message:
        return kserve.ServerReadyResponse(ready=await self._is_ready())

    @_answers(_as(kserve.ModelReadyRequest))
    async def ModelReady(self, request: kserve.ModelReadyRequest) -> Message:
        try:
            await self.models.addressed(request.name, request.version or None)
        except ModelUnavailable:
            return kserve.ModelReadyResponse(ready=False)
        return kserve.ModelReadyResponse(ready=True)

    @_answers(_as(kserve.ServerMetadataRequest))
    async def ServerMetadata(self, request: kserve.ServerMetadataRequest) -> Message:
        return kserve.ServerMetadataResponse(
            name="anyshape",
            version=installed_version("anyshape"),
            extensions=["model_configuration", "model_repository"],
        )

    @_answers(_as(kserve.ModelMetadataRequest))
    async def ModelMetadata(self, request: kserve.ModelMetadataRequest) -> Message:
        info = (await self.models.addressed(request.name, request.version or None)).info
        return kserve_grpc.encode_metadata(info)

    @_answers(_as(kserve.ModelConfigRequest))
    async def ModelConfig(self, request: kserve.ModelConfigRequest) -> Message:
        info = (await self.models.addressed(request.name, request.version or None)).info
        return kserve_grpc.encode_config(info)

    @_answers(_as(kserve.RepositoryIndexRequest))
    async def RepositoryIndex(self, request: kserve.RepositoryIndexRequest) -> Message:
        index = await self.models.index(only_ready=request.ready)
        return kserve.RepositoryIndexResponse(
            models=[kserve.RepositoryIndexResponse.ModelIndex(**e._asdict()) for e in index]
        )

    @_answers(_as(kserve.RepositoryModelLoadRequest))
    async def RepositoryModelLoad(self, request: kserve.RepositoryModelLoadRequest) -> Message:
        await self.models.controlled(request.model_name).load()
        return kserve.RepositoryModelLoadResponse()

    @_answers(_as(kserve.RepositoryModelUnloadRequest))
    async def RepositoryModelUnload(self, request: kserve.RepositoryModelUnloadRequest) -> Message:
        await self.models.controlled(request.model_name).unload()
        return kserve.RepositoryModelUnloadResponse()

    @_guarded
    async def ModelInfer(self, message: bytes, request_id: str) -> Message:
        with RequestObserver(self.models, "kserve_grpc", request_id) as watched:
            return await self._inferred(watched, *self._read(kserve_grpc.read_request, message))

    async def ModelStreamInfer(
        self, messages: AsyncIterator[bytes], grpc_context: Context
    ) -> AsyncIterator[Message]:
        """Runs a stream of independent inferences and answers them in their order."""
        answer = partial(self._streamed, request_id=_request_id(grpc_context))
        async with aclosing(in_order(messages, answer)) as answers:
            async for answered in answers:
                yield answered

    async def _streamed(self, message: bytes, request_id: str) -> Message:
        """Answers one request of a stream; an error is sent in the stream, which continues."""
        request = kserve.ModelInferRequest()
        try:
            with RequestObserver(self.models, "kserve_grpc", request_id) as watched:
                request, contents = self._read(kserve_grpc.read_request, message)
                response = await self._inferred(watched, request, contents)
            asked = request.parameters.get(_FINAL_ASKED)
            if asked is not None and asked.bool_param:
                response.parameters[_FINAL].bool_param = True
            return kserve.ModelStreamInferResponse(infer_response=response)
        except ServingError as error:
            reason = error.message
        except Exception:
            logger.exception("unexpected error in the gRPC method ModelStreamInfer")
            reason = _INTERNAL
        failed = kserve.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        return kserve.ModelStreamInferResponse(error_message=reason, infer_response=failed)

    async def _inferred(
        self,
        watched: RequestObserver,
        request: kserve.ModelInferRequest,
        contents: list[bytes | memoryview],
    ) -> kserve.ModelInferResponse:
        target = await watched.addressed(request.model_name, request.model_version or None)
        parsed = await off_loop(
            kserve_grpc.parsing_bytes(request, contents),
            kserve_grpc.parse_request,
            request,
            contents,
            self.models.limits,
            self.models.space,
        )
        response = await watched.infer(target, parsed)
        return await off_loop(total_bytes(response.tensors), kserve_grpc.encode_response, response)

    # tensorflow.serving.PredictionService, ModelService -------------------------------------------

    @_guarded
    async def Predict(self, message: bytes, request_id: str) -> Message:
        with RequestObserver(self.models, "tfs_grpc", request_id) as watched:
            return await self._predicted(watched, self._read(tfs_grpc.read_request, message))

    async def _predicted(
        self, watched: RequestObserver, request: serving.PredictRequest
    ) -> Message:
        spec = request.model_spec
        target = await watched.addressed(spec.name, *tfs_grpc.version_and_label(spec))
        parsed = await off_loop(
            tfs_grpc.parsing_bytes(request), tfs_grpc.parse_request, request, self.models.limits
        )
        response = await watched.infer(target, parsed)
        return await off_loop(total_bytes(response.tensors), tfs_grpc.encode_response, response)

    @_answers(_as(serving.GetModelMetadataRequest))
    async def GetModelMetadata(self, request: serving.GetModelMetadataRequest) -> Message:
        spec = request.model_spec
        info = (await self.models.addressed(spec.name, *tfs_grpc.version_and_label(spec))).info
        return tfs_grpc.encode_metadata(info, request.metadata_field)

    @_answers(_as(serving.GetModelStatusRequest))
    async def GetModelStatus(self, request: serving.GetModelStatusRequest) -> Message:
        spec = request.model_spec
        asked = tfs_grpc.version_and_label(spec)
        return tfs_grpc.encode_status(await self.models.version_statuses(spec.name, *asked))

    # grpc.health.v1.Health ------------------------------------------------------------------------

    @_answers(_as(health_pb2.HealthCheckRequest))
    async def Check(self, request: health_pb2.HealthCheckRequest) -> Message:
        """Answers the server's health, or a model's if the service has the model's name."""
        answer: Message = health_pb2.HealthCheckResponse(status=await self._health(request.service))
        return answer

    @_answers(_as(health_pb2.HealthListRequest))
    async def List(self, request: health_pb2.HealthListRequest) -> Message:
        """Answers the health of the server, of its services and of its models."""
        names = ["", *SERVICES, *await self.models.statuses()]
        response = health_pb2.HealthCheckResponse
        answer: Message = health_pb2.HealthListResponse(
            statuses={name: response(status=await self._health(name)) for name in names}
        )
        return answer

    async def Watch(self, message: bytes, grpc_context: Context) -> AsyncIterator[Message]:
        """Sends the health now and whenever it changes.

        The stream ends after a while, because a stopping replica waits for it; clients watch again.
        """
        try:
            service = self._read(_as(health_pb2.HealthCheckRequest), message).service
        except ServingError as error:
            _refuse(grpc_context, error)
            return
        last = None
        for _ in range(_WATCHES):
            try:
                status = await self._health(service)
            except ModelNotFound:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
            last = status
            await asyncio.sleep(timing.HEALTH_WATCH_S)

    async def _health(self, service: str) -> Any:
        """The health of a service or a model. Raises ModelNotFound."""
        if not service or service in SERVICES:
            healthy = await self._is_ready()
        else:
            healthy = (await self.models.named(service).status()).state == "AVAILABLE"
        response = health_pb2.HealthCheckResponse
        return response.SERVING if healthy else response.NOT_SERVING

    async def _is_ready(self) -> bool:
        try:
            await self.models.check_ready()
        except ModelUnavailable:
            return False
        return True

    def _read(self, read: Callable[[bytes, Limits], T], message: bytes) -> T:
        limit = self.models.limits.body_bytes
        if len(message) > limit:
            raise LimitExceeded("request message", len(message), "body_bytes", limit)
        try:
            return read(message, self.models.limits)
        except DecodeError:
            raise MalformedBody("the message is not the one that this method takes") from None


def _request_id(context: Context) -> str:
    """The request's id from the client or from Serve, which Serve sends with the answer."""
    return dict(context.trailing_metadata()).get("request_id", "")


def _refuse(context: Context, error: ServingError) -> None:
    """Sets the call's status, with a text that fits the trailer.

    The trailer has at most 8 KiB, and a character outside ASCII takes up to 12 bytes there.
    """
    words = error.message
    most = _ASCII_DETAILS if words.isascii() else _OTHER_DETAILS
    context.set_code(grpc.StatusCode[error.grpc_code])
    context.set_details(words if len(words) <= most else words[:most] + "...")
