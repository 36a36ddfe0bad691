"""Routes of Triton's repository extension and of OpenVINO Model Server's config."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response

from deployments.ingress.codecs import kserve_rest, tfs, tfs_rest
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.http.application import Handler
from deployments.tensors import Array

Body: TypeAlias = Callable[[Request, str, int], Awaitable[Array]]
"""Reads the body of a request for a model; the number is the length of its JSON part."""


class RepositoryRoutes:
    def __init__(self, models: ServedModels, body: Body) -> None:
        self._models = models
        self._body = body
        model = "/v2/repository/models/{model}"
        self.answers: list[tuple[str, str, Handler]] = [
            ("POST", "/v2/repository/index", self._index),
            ("POST", model + "/load", self._load),
            ("POST", model + "/unload", self._unload),
            ("GET", "/v1/config", self._config),
            ("POST", "/v1/config/reload", self._reload),
        ]

    async def _index(self, request: Request) -> Response:
        body = await self._body(request, "", 0)
        only_ready = kserve_rest.parse_index_request(body, self._models.limits)
        index = await self._models.index(only_ready=only_ready)
        return as_json([entry._asdict() for entry in index])

    async def _load(self, request: Request) -> Response:
        """Loads a model; ignores the parameters, in which Triton's clients may send files."""
        await self._models.controlled(request.path_params["model"]).load()
        return Response()

    async def _unload(self, request: Request) -> Response:
        await self._models.controlled(request.path_params["model"]).unload()
        return Response()

    async def _config(self, request: Request) -> Response:
        return as_json(await self._states())

    async def _reload(self, request: Request) -> Response:
        """Answers 201 if anything changed, as OpenVINO Model Server's manual says."""
        changed = await self._models.look()
        return as_json(await self._states(), 201 if changed else 200)

    async def _states(self) -> dict[str, Any]:
        return {
            name: tfs_rest.encode_status(tfs.version_statuses(name, status))
            for name, status in (await self._models.statuses()).items()
        }


def as_json(content: Any, status_code: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code, media_type="application/json")
