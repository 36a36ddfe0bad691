"""Finds the fields of protobuf messages without parsing them.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

BYTES: Final = 2
"""The wire type of length-delimited fields."""

_VARINT: Final = 0
_FIXED: Final = {1: 8, 5: 4}
_MOST_FIELDS: Final = 1024


class Field(NamedTuple):
    """A field's number and wire type, where it begins, and where its content starts and ends."""

    number: int
    kind: int
    begin: int
    start: int
    end: int


def fields(message: memoryview, most: int = _MOST_FIELDS) -> Iterator[Field]:
    """The first `most` fields of a message, up to a malformed one."""
    position = 0
    for _ in range(most):
        key, start = _varint(message, position)
        kind, length = key & 7, 0
        if kind == BYTES:
            length, start = _varint(message, start)
        elif kind == _VARINT:
            _, end = _varint(message, start)
            length = end - start
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            return
        if start + length > len(message):
            return
        yield Field(key >> 3, kind, position, start, start + length)
        position = start + length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and its end; past the message if it has none."""
    value = 0
    for place, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    return 0, len(message) + 1
