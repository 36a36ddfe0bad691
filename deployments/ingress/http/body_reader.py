"""Reads large request bodies from the socket straight into the arena.

uvicorn passes a body on in pieces, and copies each piece four times before a tensor is made of it.
This is uvicorn's protocol, except for the body of a request with a content length. Once the headers
are parsed, it reads the socket into the memory that the model will map.

Then the body is not part of the ASGI messages. The application finds a `PlacedBody` in the scope
under `BODY`. It is complete at the latest when `receive` reports that there is no more body.

This also cancels requests of the kind that have placed bodies when their client disconnects.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.ingress.http.coalesced_writes import CoalescingTransport
from deployments.ingress.http.disconnects import Client, ends_with_connection
from deployments.tensors import Array

BODY: Final = "anyshape.body"
DIRECT: Final = "anyshape.direct"
"""In the scope of a request that this process itself read from the socket. The response goes to
that socket; Ray's own proxy would have to pickle it."""

_SCRATCH_BYTES: Final = 64 * 1024
_LONGEST_NUMBER: Final = 18


@dataclass(slots=True)
class PlacedBody:
    """The memory of a body, which is received or `complete`."""

    memory: Array
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The rules for placing bodies in memory.

    `allocate` takes the length of the body and the number of bytes before its aligned part, which
    the header `lead_header` has. If it returns None, uvicorn reads the body as usual. Only POST
    requests to a path with the end `path_end` and a body of at least `smallest` bytes are placed.
    """

    allocate: Callable[[int, int], Array | None]
    lead_header: bytes
    path_end: str
    smallest: int

    def takes(self, scope: Mapping[str, Any]) -> bool:
        """Whether it is a kind of request whose bodies are placed."""
        return bool(scope["method"] == "POST" and scope["path"].endswith(self.path_end))

    def space(self, headers: dict[bytes, bytes]) -> Array | None:
        """Memory for the body of such a request, if it is large and has a content length."""
        length = _number(headers.get(b"content-length"))
        if length < self.smallest or headers.keys() & {b"content-encoding", b"transfer-encoding"}:
            return None
        return self.allocate(length, min(length, _number(headers.get(self.lead_header))))


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() and len(value) <= _LONGEST_NUMBER else 0


class _Http(HttpToolsProtocol):
    """uvicorn's protocol, which sees only the part of a placed body that came with the headers."""

    def __init__(self, placement: Placement, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._placement = placement
        self._placed_in: dict[str, Any] = {}
        self._client = Client()
        self.body: memoryview | None = None
        self.filled = 0

    def on_headers_complete(self) -> None:
        before: Any = self.cycle  # None at first, unlike uvicorn's annotation
        in_line = before is not None and not before.response_complete
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = cast("asyncio.Transport", CoalescingTransport(self.transport))
        scope = cast("dict[str, Any]", self.scope)
        scope[DIRECT] = True
        if not self._placement.takes(scope):
            return
        ends_with_connection(scope, self._client)
        space = None if in_line else self._placement.space(dict(self.headers))
        if space is not None:
            scope[BODY] = PlacedBody(space)
            self._placed_in = scope
            self.body, self.filled = space.data, 0

    def on_body(self, body: bytes) -> None:
        if self.body is None:
            super().on_body(body)
            return
        self.body[self.filled : self.filled + len(body)] = body
        self.filled += len(body)

    def on_message_complete(self) -> None:
        if self.body is not None and BODY in self._placed_in:
            self._placed_in[BODY].complete = True
        self.body = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # uvicorn keeps the scope until the connection's next request, which may take long.
        self._placed_in.pop(BODY, None)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.body = None
        self._placed_in.pop(BODY, None)
        cycle: Any = self.cycle
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            self._client.leave()

    def advance(self, nbytes: int) -> None:
        """Notes that `nbytes` more of the body are in its memory."""
        assert self.body is not None
        self.filled += nbytes
        if self.filled == len(self.body):
            # The old parser still waits for the part of the body that it has not seen.
            self.parser = httptools.HttpRequestParser(self)
            self.on_message_complete()


class BodyReader(asyncio.BufferedProtocol):
    """Reads into a scratch buffer for the parser, or into the body that is being received.

    It wraps uvicorn's protocol instead of extending it: event loops would pass received data to an
    object that is an `asyncio.Protocol` too, instead of asking it for a buffer.
    """

    def __init__(self, placement: Placement, **arguments: Any) -> None:
        self._http = _Http(placement, **arguments)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._http.body
        return self._scratch if body is None else body[self._http.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._http.body is None:
            self._http.data_received(bytes(self._scratch[:nbytes]))
        else:
            self._http.advance(nbytes)


def install(placement: Placement) -> None:
    """Makes HTTP servers that this process starts later read bodies in this way.

    Serve leaves the choice of the protocol to uvicorn's `auto`, which this replaces.
    """

    class Configured(BodyReader):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(placement, **arguments)

    auto.AutoHTTPProtocol = Configured  # type: ignore[assignment]
