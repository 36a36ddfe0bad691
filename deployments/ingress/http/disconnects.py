"""Cancels the work for clients that disconnect before they are answered.

For every request Serve starts one task that waits for a disconnect and one for the request itself.
They are not needed where this process reads the socket itself and learns of a disconnect. A header
of Serve's own makes Serve skip both tasks and await the application directly.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.types import Send

from deployments.errors import CLIENT_LEFT
from deployments.ray_private import NO_DISCONNECT_TASK

CLIENT: Final = "anyshape.client"
"""The scope's key for the Client of a request whose disconnect this module notices."""


class Client:
    """A client's connection, over which it sends one request after the other."""

    __slots__ = ("_left", "_serving")

    def __init__(self) -> None:
        self._left = False
        self._serving: asyncio.Task[Any] | None = None

    def leave(self) -> None:
        """Notes that the client disconnected, and cancels the work for its request."""
        self._left = True
        if self._serving is not None:
            self._serving.cancel()

    async def served(self, work: Callable[[], Awaitable[None]], send: Send) -> None:
        """Does the work. Raises CancelledError if the client disconnects."""
        mine = self._serving = asyncio.current_task()
        try:
            if self._left:
                raise asyncio.CancelledError
            await work()
        except asyncio.CancelledError:
            if self._left:  # reaches no client, but Serve's metrics and log count the status
                message = {"type": "http.response.start", "status": CLIENT_LEFT, "headers": []}
                await send(message)
            raise
        finally:
            if self._serving is mine:  # else the client has its answer and sent its next request
                self._serving = None


def ends_with_connection(scope: MutableMapping[str, Any], client: Client) -> None:
    """Makes `client`, not Serve, cancel this request; the scope's headers must be a list."""
    scope["headers"].append(NO_DISCONNECT_TASK)
    scope[CLIENT] = client
