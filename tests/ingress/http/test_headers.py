"""Headers of a request."""

import math
from typing import Any

import pytest
from starlette.requests import Request

from deployments.errors import MalformedBody
from deployments.ingress.http.headers import header_length, headers_of, request_id, timeout_s


def headers(*pairs: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    scope: dict[str, Any] = {"type": "http", "headers": list(pairs)}
    return headers_of(Request(scope))


def test_of_a_header_that_comes_twice_the_first_counts() -> None:
    sent = headers((b"x-request-id", b"first"), (b"x-request-id", b"second"))
    assert "first" == request_id(sent)


def test_an_id_need_not_be_ascii() -> None:
    assert "caf\xe9" == request_id(headers((b"x-request-id", b"caf\xe9")))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"10", 9.5), (b"0", math.inf), (b"-1", math.inf), (b"soon", math.inf), (b"\xe9", math.inf)],
)
def test_a_time_ends_just_before_that_of_serve(text: bytes, seconds: float) -> None:
    assert seconds == timeout_s(headers((b"x-request-timeout-seconds", text)))


@pytest.mark.parametrize("text", [b"-1", b"1.5", b"\xb2", b"1" * 19, b""])
def test_a_length_that_is_none_is_refused_with_its_value(text: bytes) -> None:
    with pytest.raises(MalformedBody, match="not a length") as refused:
        header_length(headers((b"inference-header-content-length", text)))
    assert repr(text.decode("latin-1")[:40]) in str(refused.value)


def test_without_headers_there_is_no_length_no_time_and_no_id() -> None:
    sent = headers()
    assert (None, math.inf, "") == (header_length(sent), timeout_s(sent), request_id(sent))
