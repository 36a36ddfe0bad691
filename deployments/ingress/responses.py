"""Responses in parts."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TOGETHER_BYTES: Final = 64 * 1024
"""Up to here, copying costs less than another message through all of the layers."""


class Parts(Response):
    """A response whose body is written part by part, without putting it together
    first unless it is small."""

    def __init__(self, parts: Sequence[bytes | memoryview], headers: Mapping[str, str]) -> None:
        small = sum(len(part) for part in parts) <= _TOGETHER_BYTES
        self._parts = [b"".join(parts)] if small else parts
        self.status_code = 200
        self.background = None
        length = str(sum(len(part) for part in parts))
        self.init_headers({**headers, "content-length": length})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for part in self._parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": self._parts[-1]})
        # The event loop writes at the end of its turn: not after Serve's accounting, but now.
        await asyncio.sleep(0)
