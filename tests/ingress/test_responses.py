"""A response in parts is, on the wire, the response of the whole."""

from typing import Any

from deployments.ingress.responses import Parts


async def test_the_parts_follow_one_another_and_their_length_is_announced() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    response = Parts([b"one", b"", b"three"], {"content-type": "text/x"})
    await response({"type": "http"}, None, send)  # type: ignore[arg-type]

    start, *bodies = sent
    assert 200 == start["status"]
    assert {b"content-type": b"text/x", b"content-length": b"8"} == dict(start["headers"])
    assert b"onethree" == b"".join(body["body"] for body in bodies)
    assert [True, True, False] == [body.get("more_body", False) for body in bodies]
