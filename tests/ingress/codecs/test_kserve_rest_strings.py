"""BYTES tensors of requests: strings and pictures, as JSON and as binary data."""

import struct
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES
from deployments.errors import MalformedBody, ValueOutOfRange
from tests.ingress.codecs.kserve_requests import entry, nested, parsed_input, shapes

JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF"
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


@given(st.data())
def test_strings_arrive_as_written_flat_nested_and_binary(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    count = prod(shape)
    texts = data.draw(st.lists(st.text(), min_size=count, max_size=count))
    expected = [text.encode() for text in texts]
    raw = b"".join(struct.pack("<I", len(item)) + item for item in expected)
    size = {"binary_data_size": len(raw)}
    for tensor in (
        parsed_input(entry("x", BYTES, shape, data=texts)),
        parsed_input(entry("x", BYTES, shape, data=nested(shape, texts))),
        parsed_input(entry("x", BYTES, shape, parameters=size), raw, b""),
        parsed_input(entry("x", BYTES, shape), raw, b""),
    ):
        assert (BYTES, shape, expected) == (tensor.datatype, tensor.shape, tensor.data)


@pytest.mark.parametrize("odd", [1, True, None, ["text"]])
def test_strings_in_json_are_strings(odd: Any) -> None:
    with pytest.raises(ValueOutOfRange, match="in JSON, BYTES data must be strings"):
        parsed_input(entry("x", BYTES, (2,), data=["text", odd]))


@pytest.mark.parametrize("head", [JPEG_HEAD, PNG_HEAD])
@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
@pytest.mark.parametrize("sized", [True, False])
def test_a_single_picture_needs_no_length_before_it(
    head: bytes, shape: tuple[int, ...], sized: bool
) -> None:
    picture = head + b"the rest"
    parameters = {"binary_data_size": len(picture)} if sized else {}
    tensor = parsed_input(entry("x", BYTES, shape, parameters=parameters), picture)
    assert [picture] == tensor.data


@pytest.mark.parametrize("head", [JPEG_HEAD, PNG_HEAD])
def test_a_single_picture_may_have_its_length_before_it(head: bytes) -> None:
    assert [head] == parsed_input(entry("x", BYTES), struct.pack("<I", len(head)), head).data


def test_a_length_that_reads_like_a_jpeg_is_still_a_length() -> None:
    length = int.from_bytes(b"\xff\xd8\xff\x00", "little")
    tensor = parsed_input(entry("x", BYTES), struct.pack("<I", length), bytes(length))
    assert [length] == [len(item) for item in tensor.data]


def test_several_pictures_need_their_lengths() -> None:
    with pytest.raises(MalformedBody, match="element 0 announces"):
        parsed_input(entry("x", BYTES, (2,)), JPEG_HEAD, JPEG_HEAD)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"\x01\x00\x00", "ends inside the length of element 0"),
        (b"\x02\x00\x00\x00a", "element 0 announces 2 bytes, 1 are left"),
        (b"\xff\xff\xff\xffab", "element 0 announces 4294967295 bytes, 2 are left"),
        (b"\x00\x00\x00\x00", "has 1 elements, its shape needs 2"),
        (bytes(12), "has more than the 2 elements of its shape"),
        (bytes(8) + b"x", "has more than the 2 elements of its shape"),
        (b"", "has 0 elements, its shape needs 2"),
    ],
)
def test_strings_that_contradict_their_lengths_are_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(MalformedBody, match=complaint):
        parsed_input(entry("x", BYTES, (2,), parameters={"binary_data_size": len(raw)}), raw)
