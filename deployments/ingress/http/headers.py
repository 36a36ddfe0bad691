"""Reads a request's headers, faster than Starlette, which searches all of them for each."""

import math
from typing import Final, TypeAlias

from starlette.requests import Request

from deployments.errors import MalformedBody
from deployments.ingress.codecs.kserve_rest import HEADER_LENGTH

Headers: TypeAlias = dict[bytes, bytes]

_HEADER_LENGTH: Final = HEADER_LENGTH.encode()


def headers_of(request: Request) -> Headers:
    """The headers by name; of a repeated one the first, as in Starlette."""
    return dict(reversed(request.scope["headers"]))


def request_id(headers: Headers) -> str:
    """The request's id from the client, or the one that Serve made; the answer carries it too."""
    return headers.get(b"x-request-id", b"").decode("latin-1")


def timeout_s(headers: Headers) -> float:
    """The request's time, a little below that of Serve's header, after which Serve answers 408."""
    text = headers.get(b"x-request-timeout-seconds")
    if text is None:
        return math.inf
    try:
        header = float(text.decode("latin-1"))
    except ValueError:
        return math.inf
    return 0.95 * header if header > 0 else math.inf


def header_length(headers: Headers) -> int | None:
    sent = headers.get(_HEADER_LENGTH)
    if sent is None:
        return None
    value = sent.decode("latin-1")
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise MalformedBody(f"{HEADER_LENGTH} is {value[:40]!r}, not a length")
    return int(value)
