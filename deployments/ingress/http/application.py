"""The ASGI application: Starlette, with a shortcut for inferences."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.errors import ServingError
from deployments.ingress.http.disconnects import CLIENT, Client

Handler = Callable[[Request], Awaitable[Response]]
ErrorHandler = Callable[[Request, ServingError], Awaitable[Response]]

_INFER: Final = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")


class Application(Starlette):
    """A Starlette application that passes inferences straight to `infer`.

    Starlette passes a request, and each message of its answer, through ten layers. The route of
    `infer` is in its table all the same: Serve reads the route's name there, and Starlette answers
    wrong methods.
    """

    def __init__(self, infer: Handler, failed: ErrorHandler, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._infer = infer
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client: Client | None = scope.get(CLIENT)
        if client is None:
            await self._answer(scope, receive, send)
        else:
            await client.served(lambda: self._answer(scope, receive, send), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            found = _INFER.fullmatch(scope["path"])
        if found is None:
            await super().__call__(scope, receive, send)
        else:
            await self._inference(found, scope, receive, send)

    async def _inference(
        self, found: "re.Match[str]", scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["path_params"] = {name: at for name, at in found.groupdict().items() if at}
        request = Request(scope, receive, send)
        try:
            response = await self._infer(request)
        except ServingError as error:
            response = await self._failed(request, error)
        await response(scope, receive, send)
