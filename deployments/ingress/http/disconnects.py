"""Clients that leave before they are answered: the work for them ends.

Serve has a task that waits for a client's end and one for the request, for every request; both
cost more than the waiting is worth where this process reads from the socket itself and is told of
the connection's end. To a request that says so by Serve's own header Serve does not listen, and
awaits the application directly.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.types import Send

from deployments.errors import CLIENT_LEFT
from deployments.ray_private import NO_DISCONNECT_TASK

CLIENT: Final = "anyshape.client"
"""In the scope of a request whose connection's end is noticed here."""


class Client:
    """Whoever has one connection, and sends one request after the other over it."""

    __slots__ = ("_left", "_serving")

    def __init__(self) -> None:
        self._left = False
        self._serving: asyncio.Task[Any] | None = None

    def leave(self) -> None:
        """It will not read the answer to its request."""
        self._left = True
        if self._serving is not None:
            self._serving.cancel()

    async def served(self, work: Callable[[], Awaitable[None]], send: Send) -> None:
        """Does the work, unless the client leaves. Raises CancelledError then."""
        mine = self._serving = asyncio.current_task()
        try:
            if self._left:
                raise asyncio.CancelledError
            await work()
        except asyncio.CancelledError:
            if self._left:  # nothing is sent any more, but Serve's metrics and log have the status
                message = {"type": "http.response.start", "status": CLIENT_LEFT, "headers": []}
                await send(message)
            raise
        finally:
            if self._serving is mine:  # else it has the answer, and the next request has begun
                self._serving = None


def ends_with_connection(scope: MutableMapping[str, Any], client: Client) -> None:
    """Has Serve leave it to `client` to end this request, whose headers are a list."""
    scope["headers"].append(NO_DISCONNECT_TASK)
    scope[CLIENT] = client
