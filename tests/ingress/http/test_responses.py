"""A response in parts has the same bytes on the wire as a whole one."""

import pickle
from typing import Any

import numpy as np
import pytest

from deployments.ingress.http.body_reader import DIRECT
from deployments.ingress.http.responses import _TOGETHER_BYTES, InPlace, Parts

SMALL, LARGE = b"one", bytes(_TOGETHER_BYTES)


async def sent(parts: list[Any], in_place: InPlace, **scope: Any) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    response = Parts(parts, {"content-type": "text/x"}, in_place)
    await response({"type": "http", **scope}, None, send)  # type: ignore[arg-type]
    return messages


@pytest.mark.parametrize(
    ("parts", "messages"),
    [([SMALL], 1), ([SMALL, b"", SMALL], 1), ([SMALL, b"", LARGE], 3), ([b""], 1)],
)
async def test_the_parts_follow_one_another_and_their_length_is_announced(
    parts: list[bytes], messages: int
) -> None:
    start, *bodies = await sent(parts, InPlace(0))
    assert 200 == start["status"]
    whole = b"".join(parts)
    length = str(len(whole)).encode()
    assert {b"content-type": b"text/x", b"content-length": length} == dict(start["headers"])
    assert whole == b"".join(body["body"] for body in bodies)
    more = [True] * (messages - 1) + [False]
    assert more == [body.get("more_body", False) for body in bodies]


async def test_numbers_are_sent_from_where_they_lie_within_bounds() -> None:
    memory, in_place = np.zeros(2**17, np.uint8), InPlace(3 * 2**16)
    *_, first = await sent([b"", memory.data], in_place, **{DIRECT: True})
    assert first["body"].obj is memory
    *_, third = await sent([b"", np.zeros(2**17, np.uint8).data], in_place, **{DIRECT: True})
    assert isinstance(third["body"], bytes)
    del memory, first
    assert 0 == in_place.nbytes
    *_, fourth = await sent([b"", np.zeros(2**17, np.uint8).data], in_place, **{DIRECT: True})
    assert isinstance(fourth["body"], memoryview)


async def test_what_ray_hands_on_can_be_pickled() -> None:
    messages = await sent([b"", np.zeros(2**17, np.uint8).data], InPlace(2**20))
    assert bytes(2**17) == pickle.loads(pickle.dumps(messages))[-1]["body"]
