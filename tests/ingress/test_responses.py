"""A response in parts is, on the wire, the response of the whole."""

from typing import Any

import pytest

from deployments.ingress.responses import _TOGETHER_BYTES, Parts

SMALL, LARGE = b"one", bytes(_TOGETHER_BYTES)


@pytest.mark.parametrize(
    ("parts", "messages"),
    [([SMALL], 1), ([SMALL, b"", SMALL], 1), ([SMALL, b"", LARGE], 3), ([b""], 1)],
)
async def test_the_parts_follow_one_another_and_their_length_is_announced(
    parts: list[bytes], messages: int
) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    response = Parts(parts, {"content-type": "text/x"})
    await response({"type": "http"}, None, send)  # type: ignore[arg-type]

    start, *bodies = sent
    assert 200 == start["status"]
    whole = b"".join(parts)
    length = str(len(whole)).encode()
    assert {b"content-type": b"text/x", b"content-length": length} == dict(start["headers"])
    assert whole == b"".join(body["body"] for body in bodies)
    more = [True] * (messages - 1) + [False]
    assert more == [body.get("more_body", False) for body in bodies]
