"""Encodes messages as Protocol Buffers by their field numbers, without a schema."""

from typing import TypeAlias

Field: TypeAlias = tuple[int, int | str | bytes]


def message(*fields: Field) -> bytes:
    """Encodes numbers as varints, and strings, bytes and messages with their lengths."""
    return b"".join(_field(number, value) for number, value in fields)


def varint(value: int) -> bytes:
    """Encodes seven bits in a byte, the lowest first; a negative number as 64 bits."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw
