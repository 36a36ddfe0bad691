"""Metrics of an inference request, from its arrival to its answer."""

import asyncio
import math
import time
from types import TracebackType
from typing import Literal, TypeAlias

from starlette.requests import ClientDisconnect

from deployments.errors import CLIENT_LEFT, ServingError
from deployments.inference import InferRequest, InferResponse
from deployments.ingress.dataplane.served_models import ServedModels, Target
from deployments.observability.logs import printable, set_request_ids
from deployments.observability.metrics import REJECTED, REQUEST_SECONDS, REQUESTS

Protocol: TypeAlias = Literal["kserve_http", "kserve_grpc", "tfs_http", "tfs_grpc"]


class RequestObserver:
    """A context manager that counts the request with its outcome when the context ends.

    The labels are names of served models and versions, never names that only the client sent.
    """

    __slots__ = ("_model", "_models", "_protocol", "_version", "started")

    def __init__(self, models: ServedModels, protocol: Protocol, request_id: str) -> None:
        set_request_ids(printable(request_id))
        self.started = time.monotonic()
        self._models = models
        self._protocol = protocol
        self._model = self._version = ""

    async def addressed(
        self, name: str, version: str | None = None, label: str | None = None
    ) -> Target:
        """Finds the request's model and version. Raises as ServedModels does, and QueueFull."""
        self._model = self._models.named(name).name
        target = await self._models.addressed(name, version, label)
        self._version = target.info.version
        target.model.check_queue()
        return target

    async def infer(
        self, target: Target, request: InferRequest, timeout_s: float = math.inf
    ) -> InferResponse:
        response = await self._models.infer(target, request, self.started, timeout_s)
        self._version = response.version
        return response

    def __enter__(self) -> "RequestObserver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        telemetry, model, protocol = self._models.telemetry, self._model, self._protocol
        telemetry.count(REQUESTS, model, self._version, protocol, _code(protocol, error))
        telemetry.observe(REQUEST_SECONDS, time.monotonic() - self.started, model, protocol)
        if isinstance(error, ServingError) and error.limit:
            telemetry.count(REJECTED, model, error.limit)


def _code(protocol: Protocol, error: BaseException | None) -> str:
    http = protocol.endswith("http")
    if error is None:
        return "200" if http else "OK"
    if isinstance(error, asyncio.CancelledError | ClientDisconnect | GeneratorExit):
        return str(CLIENT_LEFT) if http else "CANCELLED"
    if isinstance(error, ServingError):
        return str(error.http_status) if http else error.grpc_code
    return str(ServingError.http_status) if http else ServingError.grpc_code
