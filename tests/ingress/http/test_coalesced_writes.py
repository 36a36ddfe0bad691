import asyncio
from typing import Any

import pytest

from deployments.ingress.http.coalesced_writes import CoalescingTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what it is given, and in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | None] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(None)

    def is_closing(self) -> bool:
        return None in self.written


@pytest.mark.parametrize("body", [b"body", b"", memoryview(b"body"), bytes(64 * 1024)])
async def test_the_head_of_a_small_response_leaves_with_its_body(body: bytes | memoryview) -> None:
    transport = Transport()
    response = CoalescingTransport(transport)

    response.write(HEAD)
    assert [] == transport.written
    response.write(body)
    assert [HEAD + bytes(body)] == transport.written

    await asyncio.sleep(0)
    assert 1 == len(transport.written)


async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    transport = Transport()
    response, body = CoalescingTransport(transport), bytes(64 * 1024 + 1)
    response.write(HEAD)
    response.write(body)
    assert [HEAD, body] == transport.written


async def test_a_head_whose_body_comes_later_does_not_wait_for_it() -> None:
    transport = Transport()
    response = CoalescingTransport(transport)
    response.write(HEAD)
    await asyncio.sleep(0)
    assert [HEAD] == transport.written

    response.write(b"one")
    response.write(b"two")
    assert [HEAD, b"one", b"two"] == transport.written


async def test_what_is_held_is_written_before_the_end() -> None:
    transport = Transport()
    response = CoalescingTransport(transport)
    response.write(HEAD)
    assert not response.is_closing()
    response.close()
    assert response.is_closing()
    await asyncio.sleep(0)
    assert [HEAD, None] == transport.written
