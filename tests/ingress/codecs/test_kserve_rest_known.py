"""Remembered JSON parts give the same requests as newly parsed ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import MalformedBody, ServingError
from deployments.inference import InferRequest
from deployments.ingress.codecs import kserve_rest
from deployments.ingress.codecs.kserve_rest import RequestParser
from tests.ingress.codecs.kserve_requests import LIMITS, body_of, entry, parse_request
from tests.strategies import contents


def sized(nbytes: int) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": nbytes}}


def told(request: InferRequest) -> tuple[Any, ...]:
    tensors = [contents(tensor) for tensor in request.tensors]
    return tensors, request.outputs, request.id, request.parameters, request.input_parameters


@st.composite
def messages(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A message followed by numbers, whose length may be wrong."""
    inputs, nbytes = [], 0
    for name in draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3)):
        datatype = draw(st.sampled_from(sorted(NUMPY_DTYPES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = int(np.prod(shape)) * NUMPY_DTYPES[datatype].itemsize
        inputs.append(entry(name, datatype, shape, **sized(size)))
        nbytes += size
    message = {"inputs": inputs, **draw(st.sampled_from([{}, {"outputs": [{"name": "y"}]}]))}
    return message, bytes(max(0, nbytes + draw(st.sampled_from([0, 0, 0, 1, -1]))))


def outcome(parsed: Callable[[], InferRequest | None]) -> Any:
    """The comparable parts of a request, or its error; None if its JSON part is not remembered."""
    try:
        request = parsed()
    except ServingError as error:
        return type(error), str(error)
    return request and told(request)


@given(st.lists(messages(), min_size=1, max_size=5))
def test_the_second_time_is_as_the_first(sent: list[tuple[Any, bytes]]) -> None:
    parser = RequestParser(LIMITS)
    for body, length in (body_of(*message) for message in sent * 2):
        expected = outcome(partial(parse_request, body, length, LIMITS))
        assert outcome(partial(parser.known, body, length)) in (None, expected)
        assert outcome(partial(parser.parse, body, length)) == expected
        if isinstance(expected[0], list):
            assert outcome(partial(parser.known, body, length)) == expected


def test_numbers_are_those_of_their_own_request_and_not_copied() -> None:
    parser, message = RequestParser(LIMITS), {"inputs": [entry("x", "UINT8", [2], **sized(2))]}
    parser.parse(*body_of(message, b"\1\2"))
    body, length = body_of(message, b"\3\4")
    request = parser.known(body, length)
    assert request is not None
    (tensor,) = request.tensors
    assert [3, 4] == list(tensor.data)
    body[-1] = 5
    assert [3, 5] == list(tensor.data)


@pytest.mark.parametrize(
    ("message", "binary"),
    [
        ({"inputs": [entry("x", "UINT8", [2], data=[1, 2])]}, b""),
        ({"inputs": [entry("x", "UINT8", [2])]}, b"\1\2"),
        ({"inputs": [entry("x", "BYTES", [1], **sized(5))]}, b"\1\0\0\0a"),
        ({"id": "7", "inputs": [entry("x", "UINT8", [2], **sized(2))]}, b"\1\2"),
        ({"inputs": [entry("x" * 1024, "UINT8", [2], **sized(2))]}, b"\1\2"),
    ],
    ids=["data", "no size", "strings", "id", "long"],
)
def test_other_requests_are_parsed_each_time(message: Any, binary: bytes) -> None:
    parser, (body, length) = RequestParser(LIMITS), body_of(message, binary)
    parser.parse(body, length)
    assert parser.known(body, length) is None
    assert not parser._heads


def test_a_request_without_a_length_of_its_json_is_not_known() -> None:
    parser, message = RequestParser(LIMITS), {"inputs": [entry("x", "UINT8", [0], **sized(0))]}
    body, length = body_of(message, b"")
    parser.parse(body, length)
    assert parser.known(body, length) is not None
    assert parser.known(body, None) is None


def test_a_length_beyond_the_body_is_refused_as_ever() -> None:
    parser, message = RequestParser(LIMITS), {"inputs": [entry("x", "UINT8", [0], **sized(0))]}
    body, length = body_of(message, b"")
    parser.parse(body, length)
    known = parser.known(body, length + 1)
    with pytest.raises(MalformedBody, match="the body has"):
        known or parser.parse(body, length + 1)


def test_a_flood_of_them_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_rest, "_REMEMBERED_HEADS", 10)
    parser = RequestParser(LIMITS)
    for size in range(100):
        message = {"inputs": [entry("x", "UINT8", [size], **sized(size))]}
        body, length = body_of(message, bytes(size))
        parser.parse(body, length)
        assert parser.known(body, length) is not None
        assert len(parser._heads) <= 10
