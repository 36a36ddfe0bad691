"""Strings of a BYTES tensor on the wire."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.datatypes import BYTES
from deployments.errors import MalformedBody
from deployments.tensors import Tensor, split_strings, to_bytes
from tests.wire_bytes import framed, vector

strings = st.lists(st.binary(max_size=300), max_size=6)


@given(strings)
def test_strings_stand_behind_their_lengths(items: list[bytes]) -> None:
    tensor = Tensor("x", BYTES, (len(items),), items)
    assert framed(items) == to_bytes(tensor)
    assert items == split_strings("x", (len(items),), vector(framed(items)))


@given(strings.filter(bool), st.data())
def test_strings_that_end_early_are_refused(items: list[bytes], data: st.DataObject) -> None:
    wire = framed(items)
    end = data.draw(st.integers(0, len(wire) - 1))
    with pytest.raises(MalformedBody, match=r"^malformed request: input 'x'"):
        split_strings("x", (len(items),), vector(wire[:end]))


@given(strings, st.binary(min_size=1, max_size=9))
def test_bytes_behind_the_last_string_are_refused(items: list[bytes], rest: bytes) -> None:
    with pytest.raises(MalformedBody, match=f"more than the {len(items)} elements of its shape"):
        split_strings("x", (len(items),), vector(framed(items) + rest))


@given(st.binary(max_size=20), st.integers(0, 4))
@example(b"\0\0\0\0\1\0\0\0a", 2)
def test_any_bytes_are_strings_or_malformed(raw: bytes, count: int) -> None:
    try:
        items = split_strings("x", (count,), vector(raw))
    except MalformedBody:
        return
    assert count == len(items)
    assert raw == framed(items)


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        (framed([b"a"]), "input 'x' has 1 elements, its shape needs 2"),
        (framed([b"a"]) + b"\1\0\0", "input 'x' ends inside the length of element 1"),
        (framed([b"a"]) + b"\5\0\0\0abcd", "input 'x', element 1 announces 5 bytes, 4 are left"),
        (b"\xff" * 4, "input 'x', element 0 announces 4294967295 bytes, 0 are left"),
        (framed([b"a"] * 3), "input 'x' has more than the 2 elements of its shape"),
    ],
)
def test_the_error_says_what_is_wrong_with_strings(wire: bytes, complaint: str) -> None:
    with pytest.raises(MalformedBody) as error:
        split_strings("x", (2,), vector(wire))
    assert f"malformed request: {complaint}" == error.value.message
