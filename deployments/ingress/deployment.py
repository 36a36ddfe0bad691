"""The Ingress deployment: routes and what they answer, nothing else."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed_version
from typing import Any, Final

import numpy as np
import orjson
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.arena import Arena
from deployments.crossing import INLINE_BYTES
from deployments.errors import (
    DeadlineExceeded,
    MalformedBody,
    MethodNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    PathNotFound,
    ServingError,
)
from deployments.inference import InferRequest, InferResponse, ModelInfo
from deployments.ingress.application import Application, Handler
from deployments.ingress.bodies import read_body
from deployments.ingress.images import decode_pictures, is_picture_input
from deployments.ingress.kserve_rest import (
    HEADER_LENGTH,
    encode_metadata,
    encode_response,
    parse_request,
)
from deployments.ingress.lanes import MeetingPoint
from deployments.ingress.models import ServedModel
from deployments.ingress.replicas import RayReplicas
from deployments.ingress.responses import Parts
from deployments.ingress.socket_reading import BODY, PlacedBody, Placement, install
from deployments.settings import Limits
from deployments.tensors import Array, Tensor

logger: Final = logging.getLogger("ray.serve")

_OFF_LOOP_BYTES: Final = 256 * 1024
_JSON: Final = "application/json"
_CLIENT_LEFT: Final = 499


class Ingress:
    """Speaks the protocols, validates, and batches requests of matching shapes."""

    def __init__(self, models: Mapping[str, DeploymentHandle[Any]], limits: Limits) -> None:
        self._limits = limits
        self._arena = Arena(limits.shared_memory_bytes) if Arena.supported() else None
        self._meeting = MeetingPoint() if self._arena is not None else None
        self._replicas = {
            name: RayReplicas(handle, self._meeting) for name, handle in models.items()
        }
        self._models = {
            name: ServedModel(name, replicas, limits, self._arena)
            for name, replicas in self._replicas.items()
        }
        self._settled = False
        self._largest_placed = limits.shared_memory_bytes // 4
        if self._arena is not None:
            install(Placement(self._place, HEADER_LENGTH.encode(), "/infer", INLINE_BYTES))

    def __serve_build_asgi_app__(self) -> Application:
        """Serve calls this after the constructor, on the replica's event loop."""
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        answers: list[tuple[str, str, Handler]] = [
            ("POST", model + "/infer", self._infer),  # first: Serve goes through them in order
            ("POST", version + "/infer", self._infer),
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/models", self._index),
            ("GET", model, self._metadata),
            ("GET", version, self._metadata),
            ("GET", model + "/ready", self._model_ready),
            ("GET", version + "/ready", self._model_ready),
            ("GET", model + "/stats", self._statistics),
        ]
        routes = [Route(path, _answering(to), methods=[verb]) for verb, path, to in answers]
        handlers: dict[Any, Any] = {ServingError: _failed, HTTPException: _not_routed}
        return Application(
            _answering(self._infer), _failed, routes=routes, exception_handlers=handlers
        )

    async def __del__(self) -> None:  # Serve awaits it when the replica has drained
        await asyncio.gather(*(model.close() for model in self._models.values()))
        for replicas in self._replicas.values():
            replicas.close()
        if self._meeting is not None:
            await self._meeting.close()

    # Server -------------------------------------------------------------------------------------

    async def _server(self, request: Request) -> Response:
        return _json(
            {
                "name": "anyshape",
                "version": installed_version("anyshape"),
                "extensions": ["binary_tensor_data"],
            }
        )

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        """200 once every model is available or has said why not, and one at least is."""
        if not self._settled:
            statuses = await asyncio.gather(*(m.status() for m in self._models.values()))
            for model, status in zip(self._models.values(), statuses, strict=True):
                if status.state == "LOADING":
                    raise ModelUnavailable(model.name, status.reason)
            if all(status.info is None for status in statuses):
                name, status = next(iter(self._models)), statuses[0]
                raise ModelUnavailable(name, status.reason)
            self._settled = True
        return Response()

    async def _index(self, request: Request) -> Response:
        statuses = await asyncio.gather(*(m.status() for m in self._models.values()))
        return _json(
            {
                "models": [
                    {"name": name, "state": status.state, "reason": status.reason}
                    for name, status in zip(self._models, statuses, strict=True)
                ]
            }
        )

    # Models -------------------------------------------------------------------------------------

    async def _metadata(self, request: Request) -> Response:
        _, info = await self._addressed(request)
        return Response(encode_metadata(info), media_type=_JSON)

    async def _model_ready(self, request: Request) -> Response:
        model, _ = await self._addressed(request)
        status = await model.status()
        if status.state != "AVAILABLE":
            raise ModelUnavailable(model.name, status.reason)
        return Response()

    async def _statistics(self, request: Request) -> Response:
        model, info = await self._addressed(request)
        return _json(
            {
                "model_name": info.name,
                "model_version": info.version,
                "replicas": await model.statistics(),
            }
        )

    async def _infer(self, request: Request) -> Response:
        started = time.monotonic()
        model, info = await self._addressed(request)
        model.check_queue()
        header_length = _header_length(request)
        body = await self._body(request, model.name, header_length or 0)
        json_bytes = body.size if header_length is None else header_length
        parsed = await _off_loop(
            _parsing_bytes(body, json_bytes), parse_request, body, header_length, self._limits
        )
        tensors = [await self._decoded(info, parsed, tensor) for tensor in parsed.tensors]
        timeout_s = self._timeout_s(request, parsed)
        spent_s = time.monotonic() - started
        outputs = await model.infer(info, tensors, tuple(parsed.outputs), timeout_s, spent_s)
        response = InferResponse(info.name, info.version, tuple(outputs), parsed.id)
        nbytes = sum(tensor.nbytes for tensor in outputs)
        json_length, parts = await _off_loop(nbytes, encode_response, response, parsed)
        if json_length is None:
            return Parts(parts, {"content-type": _JSON})
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(json_length)}
        return Parts(parts, headers)

    async def _body(self, request: Request, model: str, json_length: int) -> Array:
        """The whole body. A client that takes longer than any request may is given up."""
        placed: PlacedBody | None = request.scope.get(BODY)
        if placed is not None and placed.complete:
            return placed.memory
        timeout_s = self._limits.timeout_s
        try:
            return await asyncio.wait_for(self._received(request, json_length), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(model, timeout_s) from None

    async def _received(self, request: Request, json_length: int) -> Array:
        placed: PlacedBody | None = request.scope.get(BODY)
        if placed is None:
            return await read_body(
                request.stream(),
                request.headers,
                self._limits.body_bytes,
                self._arena,
                json_length,
            )
        async for _ in request.stream():
            pass  # empty, and over when the body is complete
        return placed.memory

    async def _addressed(self, request: Request) -> tuple[ServedModel, ModelInfo]:
        name = request.path_params["model"]
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(name, list(self._models))
        return model, await model.info(request.path_params.get("version"))

    async def _decoded(self, info: ModelInfo, request: InferRequest, tensor: Tensor) -> Tensor:
        """The tensor; encoded pictures become pixels, in a worker thread."""
        spec = next((spec for spec in info.inputs if spec.name == tensor.name), None)
        if spec is None or not is_picture_input(spec, tensor):
            return tensor
        parameters = request.input_parameters.get(tensor.name, {})
        return await asyncio.to_thread(
            decode_pictures, spec, tensor, parameters, self._limits, self._space
        )

    def _place(self, nbytes: int, lead: int) -> Array | None:
        """Memory for a body that is being received, but not for one over the limit.

        Nor for one that would take a large part of the arena on a mere announcement.
        """
        if self._arena is None or nbytes > min(self._limits.body_bytes, self._largest_placed):
            return None
        return self._arena.allocate(nbytes, lead)

    def _space(self, nbytes: int) -> Array:
        space = self._arena.allocate(nbytes) if self._arena is not None else None
        return np.empty(nbytes, np.uint8) if space is None else space

    def _timeout_s(self, request: Request, parsed: InferRequest) -> float:
        """The least of the limit, Triton's parameter `timeout` (us) and Serve's header (s).

        Serve itself answers 408 when its header's time is over: ours runs out just before.
        """
        timeouts = [self._limits.timeout_s]
        microseconds = parsed.parameters.get("timeout")
        if microseconds is not None:
            if type(microseconds) is not int or microseconds < 0:
                raise MalformedBody(f"parameter 'timeout' is {microseconds!r}, not microseconds")
            if microseconds:
                timeouts.append(microseconds / 1e6)
        try:
            header = float(request.headers.get("x-request-timeout-seconds", "inf"))
        except ValueError:
            header = 0.0
        if header > 0:
            timeouts.append(0.95 * header)
        return min(timeouts)


def _answering(handler: Handler) -> Handler:
    """The handler, whose unforeseen errors are logged and answered as the protocol says."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except (ServingError, HTTPException):
            raise
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)  # nobody reads it, but the log counts it
        except Exception:
            logger.exception("%s failed", handler.__name__)
            return _json({"error": "internal error, the server's log has the reason"}, 500)

    return guarded


def _parsing_bytes(body: Array, json_bytes: int) -> int:
    """How much of the body is gone through in Python: the JSON, and all of it with strings."""
    if json_bytes > _OFF_LOOP_BYTES or b"BYTES" not in bytes(body[:json_bytes]):
        return json_bytes
    return int(body.size)


def _header_length(request: Request) -> int | None:
    value = request.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise MalformedBody(f"{HEADER_LENGTH} is {value[:40]!r}, not a length")
    return int(value)


async def _off_loop(nbytes: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """Large conversions go to a thread, small ones are quicker done here."""
    if nbytes > _OFF_LOOP_BYTES:
        return await asyncio.to_thread(work, *arguments)
    return work(*arguments)


def _json(content: Any, status_code: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code, media_type=_JSON)


async def _failed(request: Request, error: ServingError) -> Response:
    headers = {"retry-after": "1"} if error.http_status == 503 else {}
    body = orjson.dumps({"error": error.message})
    return Response(body, error.http_status, headers, _JSON)


async def _not_routed(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        response = await _failed(request, MethodNotAllowed(request.method, path, sorted(allowed)))
        response.headers["allow"] = ", ".join(sorted(allowed))
        return response
    return await _failed(request, PathNotFound(path))
