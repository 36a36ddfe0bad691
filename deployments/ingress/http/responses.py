"""Responses that are sent in parts."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.ingress.http.body_reader import DIRECT

_TOGETHER_BYTES: Final = 64 * 1024
"""Up to this size, a copy costs less than another message through all layers."""


class InPlace:
    """Counts the bytes of shared memory that are sent without a copy, until clients have read them.

    They are bounded, or slow clients would hold all of the memory that models answer in.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.nbytes = 0

    def take(self, part: memoryview) -> bool:
        """Whether the part may be sent without a copy; it counts until its memory is freed."""
        if self.nbytes + part.nbytes > self._most:
            return False
        self.nbytes += part.nbytes
        weakref.finalize(part.obj, self._give_back, part.nbytes).atexit = False
        return True

    def _give_back(self, nbytes: int) -> None:
        self.nbytes -= nbytes


class Parts(Response):
    """A response that sends its body part by part; a small body is joined first."""

    def __init__(
        self, parts: Sequence[bytes | memoryview], headers: Mapping[str, str], in_place: InPlace
    ) -> None:
        length = sum(map(len, parts))
        self._parts = [b"".join(parts)] if length <= _TOGETHER_BYTES else parts
        self._in_place = in_place
        self.status_code = 200
        self.background = None
        self.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.raw_headers.append((b"content-length", b"%d" % length))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        direct = DIRECT in scope
        for part in self._parts[:-1]:
            body = self._sent(part, direct)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": self._sent(self._parts[-1], direct)})

    def _sent(self, part: bytes | memoryview, direct: bool) -> bytes | memoryview:
        if isinstance(part, memoryview) and not (direct and self._in_place.take(part)):
            return bytes(part)
        return part
