"""Writes the head and the body of a small response in one system call.

uvicorn writes them one after the other, and uvloop makes a system call for each. That may wake up
HAProxy and the client twice. After `100 Continue` it still does.
"""

import asyncio
from typing import Final

_TOGETHER_BYTES: Final = 64 * 1024
"""Up to this size, a copy costs less than another system call."""


class CoalescingTransport:
    """A transport for one response, which holds back the first write until the next one.

    It sends both together if the next is small and comes in the same turn of the event loop.
    """

    __slots__ = ("_first", "_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._first = True
        self._held = b""

    def write(self, data: bytes | memoryview) -> None:
        if self._first:
            self._first = False
            self._held = bytes(data)
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._held and len(data) <= _TOGETHER_BYTES:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._flush()
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
