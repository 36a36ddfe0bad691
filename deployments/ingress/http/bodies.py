"""Reads request bodies into memory that the model can read without another copy."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

import numpy as np

from deployments.errors import LimitExceeded, MalformedBody
from deployments.tensors import Array
from deployments.transport.arena import Arena
from deployments.transport.batches import INLINE_BYTES

_GZIP_OR_ZLIB: Final = 47  # zlib's window bits that recognise either format by its header
_PIECE: Final = 1 << 16


async def read_body(
    chunks: AsyncIterator[bytes],
    headers: Mapping[str, str],
    limit: int,
    arena: Arena | None,
    json_length: int = 0,
) -> Array:
    """Reads the whole body as a uint8 vector, decompressed as `Content-Encoding` says.

    A large body of announced length goes into the arena if there is room, placed so that the bytes
    after the first `json_length` are aligned. Raises LimitExceeded as soon as the body exceeds the
    limit, whatever the headers announced.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    announced = _content_length(headers)
    if announced is not None and announced > limit:
        raise LimitExceeded("request body", announced, "body_bytes", limit)
    if encoding == "identity":
        space = None
        if arena is not None and announced is not None and announced > INLINE_BYTES:
            space = arena.allocate(announced, lead=json_length)
        if space is not None:
            return await _fill(chunks, space)
        return await _collect(chunks, announced, limit)
    if encoding not in ("gzip", "deflate"):
        raise MalformedBody(f"Content-Encoding {encoding[:40]!r} is not gzip, deflate or identity")
    packed = await _collect(chunks, announced, limit)
    return await asyncio.to_thread(_unpacked, packed, limit)


def _content_length(headers: Mapping[str, str]) -> int | None:
    value = headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise MalformedBody(f"Content-Length is {value[:40]!r}, not a length")
    return int(value)


async def _fill(chunks: AsyncIterator[bytes], space: Array) -> Array:
    target, position = space.data, 0
    async for chunk in chunks:
        end = position + len(chunk)
        if end > len(target):
            raise MalformedBody("the body is longer than its Content-Length")
        target[position:end] = chunk
        position = end
    _expect_length(position, len(target))
    return space


async def _collect(chunks: AsyncIterator[bytes], announced: int | None, limit: int) -> Array:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise LimitExceeded("request body", len(body), "body_bytes", limit)
    _expect_length(len(body), len(body) if announced is None else announced)
    return np.frombuffer(body, np.uint8)


def _expect_length(length: int, announced: int) -> None:
    if length > announced:
        raise MalformedBody("the body is longer than its Content-Length")
    if length < announced:
        raise MalformedBody(f"the body ended after {length} of {announced} bytes")


def _unpacked(packed: Array, limit: int) -> Array:
    """Decompresses a body piece by piece, because zlib copies the input that it leaves.

    A second gzip member is refused like any other bytes after the first: millions of empty members
    fit into one body, and each costs a new start.
    """
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    for start in range(0, packed.size, _PIECE):
        try:
            body += unpacker.decompress(packed.data[start : start + _PIECE], limit + 1 - len(body))
        except zlib.error:
            raise MalformedBody("the compressed body cannot be decompressed") from None
        if len(body) > limit:
            raise LimitExceeded("decompressed request body", len(body), "body_bytes", limit)
        if unpacker.unused_data:
            raise MalformedBody("the compressed body has bytes after its end")
    if not unpacker.eof:
        raise MalformedBody("the compressed body ends too early")
    return np.frombuffer(body, np.uint8)
