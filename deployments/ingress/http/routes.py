"""The HTTP routes of KServe v2 and TensorFlow Serving's REST API, and their handlers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version as installed_version
from typing import Any, Final

import numpy as np
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.errors import (
    CLIENT_LEFT,
    DeadlineExceeded,
    MethodNotAllowed,
    ModelUnavailable,
    PathNotFound,
    ServingError,
)
from deployments.ingress.codecs import kserve_rest, tfs_rest
from deployments.ingress.codecs.kserve_rest import HEADER_LENGTH
from deployments.ingress.dataplane.request_metrics import RequestObserver
from deployments.ingress.dataplane.served_models import ServedModels, Target, off_loop, total_bytes
from deployments.ingress.http.application import Application, Handler
from deployments.ingress.http.bodies import read_body
from deployments.ingress.http.body_reader import BODY, PlacedBody, Placement, install
from deployments.ingress.http.headers import (
    Headers,
    header_length,
    headers_of,
    request_id,
    timeout_s,
)
from deployments.ingress.http.repository_routes import RepositoryRoutes, as_json
from deployments.ingress.http.responses import InPlace, Parts
from deployments.ingress.http.shape_report import encode_shapes, limit_parameter
from deployments.observability.shape_records import merged
from deployments.tensors import Array
from deployments.transport.arena import Arena
from deployments.transport.batches import INLINE_BYTES

logger: Final = logging.getLogger("ray.serve")

_WHOLLY_PARSED_BYTES: Final = 256 * 1024
_NUMBER_BYTES: Final = 8  # the alignment of a tensor's largest numbers
_JSON: Final = "application/json"
_PROMETHEUS: Final = "text/plain; version=0.0.4"
_DEFAULT_VERSION: Final = "0"  # in TensorFlow Serving's clients


class HttpRoutes:
    """Answers HTTP requests by the served models."""

    def __init__(
        self,
        models: ServedModels,
        arena: Arena | None,
        metrics: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`metrics` returns the answer to `/metrics`; without it there is no such path."""
        self._models = models
        self._exported_metrics = metrics
        self._limits = models.limits
        self._parser = kserve_rest.RequestParser(models.limits)
        self._arena = arena
        self._in_place = InPlace(models.limits.shared_memory_bytes // 4)
        self._largest_placed = models.limits.shared_memory_bytes // 4
        if arena is not None:
            install(Placement(self._place, HEADER_LENGTH.encode(), "/infer", smallest=1))

    def application(self) -> Application:
        model, tfs_model = "/v2/models/{model}", "/v1/models/{model}"
        version = model + "/versions/{version}"
        answers: list[tuple[str, str, Handler]] = [
            ("POST", model + "/infer", self._infer),  # first: Serve tries them in order
            ("POST", version + "/infer", self._infer),
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/models", self._index),
            *RepositoryRoutes(self._models, self._body).answers,
            ("GET", model, self._metadata),
            ("GET", version, self._metadata),
            ("GET", model + "/ready", self._model_ready),
            ("GET", version + "/ready", self._model_ready),
            ("GET", model + "/config", self._config),
            ("GET", version + "/config", self._config),
            ("GET", model + "/stats", self._statistics),
            ("GET", version + "/stats", self._statistics),
            ("GET", model + "/shapes", self._shapes),
            ("GET", version + "/shapes", self._shapes),
        ]
        for path in (tfs_model + "/versions/{version}", tfs_model + "/labels/{label}", tfs_model):
            answers += [
                ("POST", path + ":predict", self._predict),
                ("GET", path + "/metadata", self._tfs_metadata),
                ("GET", path, self._tfs_status),
            ]
        if self._exported_metrics is not None:
            answers.append(("GET", "/metrics", self._metrics))
        routes = [Route(path, _answering(to), methods=[verb]) for verb, path, to in answers]
        handlers: dict[Any, Any] = {ServingError: _failed, HTTPException: _not_routed}
        return Application(
            _answering(self._infer), _failed, routes=routes, exception_handlers=handlers
        )

    # Server -------------------------------------------------------------------------------------

    async def _server(self, request: Request) -> Response:
        return as_json(
            {
                "name": "anyshape",
                "version": installed_version("anyshape"),
                "extensions": ["binary_tensor_data", "model_configuration", "model_repository"],
            }
        )

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        """Answers 200 once no model is loading and at least one is available."""
        await self._models.check_ready()
        return Response()

    async def _metrics(self, request: Request) -> Response:
        assert self._exported_metrics is not None
        return Response(await self._exported_metrics(), media_type=_PROMETHEUS)

    async def _index(self, request: Request) -> Response:
        statuses = await self._models.statuses()
        return as_json(
            {
                "models": [
                    {"name": name, "state": status.state, "reason": status.reason}
                    for name, status in statuses.items()
                ]
            }
        )

    # Models -------------------------------------------------------------------------------------

    async def _metadata(self, request: Request) -> Response:
        info = (await self._addressed(request)).info
        return Response(kserve_rest.encode_metadata(info), media_type=_JSON)

    async def _config(self, request: Request) -> Response:
        info = (await self._addressed(request)).info
        return as_json(kserve_rest.model_config(info))

    async def _model_ready(self, request: Request) -> Response:
        target = await self._addressed(request)
        status = await target.model.status()
        if status.state != "AVAILABLE":
            raise ModelUnavailable(target.model.name, status.reason)
        return Response()

    async def _statistics(self, request: Request) -> Response:
        model, info, version = await self._addressed(request)
        return as_json(
            {
                "model_name": info.name,
                "model_version": info.version,
                "replicas": await model.statistics(version),
            }
        )

    async def _shapes(self, request: Request) -> Response:
        model, info, _ = await self._addressed(request)
        limit = limit_parameter(request.query_params.get("limit"))
        reports = await model.shapes(info.version)
        # Thousands of shapes take a while to merge.
        return as_json(await asyncio.to_thread(encode_shapes, merged(reports), info, limit))

    async def _infer(self, request: Request) -> Response:
        headers = headers_of(request)
        with RequestObserver(self._models, "kserve_http", request_id(headers)) as watched:
            return await self._inferred(request, headers, watched)

    async def _inferred(
        self, request: Request, sent: Headers, watched: RequestObserver
    ) -> Response:
        parameters = request.path_params
        target = await watched.addressed(parameters["model"], parameters.get("version"))
        json_length = header_length(sent)
        body = await self._body(request, target.model.name, json_length or 0)
        parsed = self._parser.known(body, json_length)
        if parsed is None:
            json_bytes = body.size if json_length is None else json_length
            parsed = await off_loop(
                _parsing_bytes(body, json_bytes), self._parser.parse, body, json_length
            )
        response = await watched.infer(target, parsed, timeout_s(sent))
        answer_json, parts = await off_loop(
            total_bytes(response.tensors), kserve_rest.encode_response, response, parsed
        )
        if answer_json is None:
            return Parts(parts, {"content-type": _JSON}, self._in_place)
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(answer_json)}
        return Parts(parts, headers, self._in_place)

    async def _addressed(self, request: Request) -> Target:
        return await self._models.addressed(
            request.path_params["model"], request.path_params.get("version")
        )

    # TensorFlow Serving -------------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:
        headers = headers_of(request)
        with RequestObserver(self._models, "tfs_http", request_id(headers)) as watched:
            return await self._predicted(request, headers, watched)

    async def _predicted(
        self, request: Request, sent: Headers, watched: RequestObserver
    ) -> Response:
        target = await watched.addressed(*_tfs_path(request))
        body = await self._body(request, target.model.name, 0)
        parsed, by_row = await off_loop(
            body.size, tfs_rest.parse_request, body, target.info, self._limits
        )
        response = await watched.infer(target, parsed, timeout_s(sent))
        content = await off_loop(
            total_bytes(response.tensors), tfs_rest.encode_response, response, by_row
        )
        return Parts([content], {"content-type": _JSON}, self._in_place)

    async def _tfs_metadata(self, request: Request) -> Response:
        info = (await self._tfs_addressed(request)).info
        return as_json(tfs_rest.encode_metadata(info))

    async def _tfs_status(self, request: Request) -> Response:
        statuses = await self._models.version_statuses(*_tfs_path(request))
        return as_json(tfs_rest.encode_status(statuses))

    async def _tfs_addressed(self, request: Request) -> Target:
        name, version, label = _tfs_path(request)
        return await self._models.addressed(name, version, label)

    # Bodies -------------------------------------------------------------------------------------

    async def _body(self, request: Request, model: str, json_length: int) -> Array:
        """Reads the whole body. Raises DeadlineExceeded if it takes longer than `timeout_s`."""
        placed: PlacedBody | None = request.scope.get(BODY)
        if placed is not None and placed.complete:
            return placed.memory
        timeout_s = self._limits.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._received(request, json_length)
        except TimeoutError:
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
            pass  # the stream is empty, and ends when the body is complete
        return placed.memory

    def _place(self, nbytes: int, lead: int) -> Array | None:
        """Memory for a body that is being received; None if it exceeds the limit.

        Also None if a body that is only announced would take a large part of the arena. A small
        body goes to the model in a message, and takes none of the arena.
        """
        if self._arena is None or nbytes > min(self._limits.body_bytes, self._largest_placed):
            return None
        if nbytes <= INLINE_BYTES:
            padding = -lead % _NUMBER_BYTES
            return np.empty(padding + nbytes, np.uint8)[padding:]
        return self._arena.allocate(nbytes, lead)


def _answering(handler: Handler) -> Handler:
    """Wraps a handler: logs unexpected errors and answers them as the protocol says."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except (ServingError, HTTPException):
            raise
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)  # reaches no client, but Serve's log counts it
        except Exception:
            logger.exception("unexpected error in the HTTP handler %s", handler.__name__)
            return as_json({"error": "internal error, the server's log has the reason"}, 500)

    return guarded


def _tfs_path(request: Request) -> tuple[str, str | None, str | None]:
    """The model's name, and the version or the label that the path names."""
    parameters = request.path_params
    version = parameters.get("version")
    version = None if version == _DEFAULT_VERSION else version
    return parameters["model"], version, parameters.get("label")


def _parsing_bytes(body: Array, json_bytes: int) -> int:
    """The bytes that Python code processes: the JSON part, or the whole body if it has strings."""
    if json_bytes > _WHOLLY_PARSED_BYTES or b"BYTES" not in bytes(body[:json_bytes]):
        return json_bytes
    return int(body.size)


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
