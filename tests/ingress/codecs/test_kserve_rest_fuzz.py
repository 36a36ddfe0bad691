"""The server parses any bytes or refuses them with 400 or 413, and raises nothing else."""

import contextlib
from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import DATATYPES
from deployments.errors import MalformedBody, ServingError
from deployments.settings import Limits
from tests.ingress.codecs.kserve_requests import entry, parse_request, parsed

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-2, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(sorted(DATATYPES)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
small_limits = Limits(elements=1000, json_depth=8, inputs=4)


def refused_or_understood(message: Any, *binary: bytes) -> None:
    try:
        parsed(message, *binary, limits=small_limits)
    except ServingError as error:
        refused = error
    else:
        return
    assert refused.http_status in (400, 413)
    assert orjson.dumps(refused.message)  # it can be encoded


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_random_bytes_are_refused(body: bytes, header_length: int | None) -> None:
    with contextlib.suppress(MalformedBody):
        parse_request(np.frombuffer(body, np.uint8), header_length, small_limits)


@given(json_values, st.binary(max_size=20))
def test_random_json_is_refused_or_understood(message: Any, binary: bytes) -> None:
    refused_or_understood({"inputs": message})
    refused_or_understood({"inputs": [message]}, binary)
    refused_or_understood(message)


@given(st.data(), json_values, st.binary(max_size=40))
def test_a_request_with_any_field_replaced_is_refused_or_understood(
    data: st.DataObject, replacement: Any, binary: bytes
) -> None:
    datatype = st.sampled_from(sorted(DATATYPES))
    message: dict[str, Any] = {
        "id": "1",
        "inputs": [
            entry("x", data.draw(datatype), [2, 2], data=[[1, 2], [3, 4]], parameters={}),
            entry("y", data.draw(datatype), [3], parameters={"binary_data_size": 12}),
        ],
        "outputs": [{"name": "a", "parameters": {"binary_data": True}}],
        "parameters": {"binary_data_output": True},
    }
    place: Any = message
    key = data.draw(st.sampled_from(list(message)))
    while isinstance(place[key], dict | list) and len(place[key]) and data.draw(st.booleans()):
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
    place[key] = replacement
    refused_or_understood(message, binary)


@given(st.data())
def test_a_request_with_any_byte_replaced_is_refused_or_understood(data: st.DataObject) -> None:
    inputs = [
        entry("x", "UINT8", (2,), data=[1, 2]),
        entry("y", "FP16", (2, 2), parameters={"binary_data_size": 8}),
    ]
    head = bytearray(orjson.dumps({"inputs": inputs, "id": "1"}))
    for position in data.draw(st.lists(st.integers(0, len(head) - 1), min_size=1, max_size=3)):
        head[position] = data.draw(st.integers(0, 255))
    refused_or_understood(bytes(head), bytes(8))
