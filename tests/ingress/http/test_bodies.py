import asyncio
import contextlib
import gc
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import LimitExceeded, MalformedBody
from deployments.ingress.http.bodies import read_body
from deployments.tensors import Array
from deployments.transport.arena import ALIGNMENT, Arena
from deployments.transport.batches import INLINE_BYTES

MiB = 1 << 20
LARGE = INLINE_BYTES + 1
needs_arena = pytest.mark.skipif(not Arena.supported(), reason="needs memfd_create")


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(
    *chunks: bytes,
    content_length: int | str | None = None,
    content_encoding: str | None = None,
    limit: int = MiB,
    arena: Arena | None = None,
    json_length: int = 0,
) -> Array:
    headers = {"content-length": content_length, "content-encoding": content_encoding}
    given = {name: str(value) for name, value in headers.items() if value is not None}
    return await read_body(stream(chunks), given, limit, arena, json_length)


def pattern(nbytes: int) -> bytes:
    return (np.arange(nbytes) % 251).astype(np.uint8).tobytes()


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


# Plain bodies -----------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=8), st.booleans(), st.booleans())
def test_a_body_is_its_chunks_put_together(
    chunks: list[bytes], announced: bool, named: bool
) -> None:
    whole = b"".join(chunks)
    body = read(
        *chunks,
        content_length=len(whole) if announced else None,
        content_encoding=" Identity " if named else None,
    )
    assert whole == asyncio.run(body).tobytes()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_exactly_the_limit_is_read(announced: bool) -> None:
    body = await read(pattern(100), limit=100, content_length=100 if announced else None)
    assert pattern(100) == body.tobytes()


async def test_an_announced_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    async def untouched() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    with pytest.raises(LimitExceeded) as caught:
        await read_body(untouched(), {"content-length": "101"}, 100, None)
    assert "request body of 101 exceeds limits.body_bytes (100)" == caught.value.message


async def test_a_body_without_length_is_refused_as_soon_as_it_passes_the_limit() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(10)
        pytest.fail("read on after the limit")

    with pytest.raises(LimitExceeded, match=r"request body of 110 exceeds limits.body_bytes"):
        await read_body(endless(), {}, 100, None)


@pytest.mark.parametrize("value", ["-1", "+1", "1.0", "", " 1", "1_0", "0x10", "²", "9" * 5000])
async def test_a_content_length_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(MalformedBody, match="Content-Length"):
        await read(b"x", content_length=value)


@pytest.mark.parametrize("nbytes", [10, LARGE])
@pytest.mark.parametrize("in_arena", [pytest.param(True, marks=needs_arena), False])
async def test_a_body_that_contradicts_its_length_is_refused(nbytes: int, in_arena: bool) -> None:
    arena = Arena(MiB) if in_arena else None
    with pytest.raises(MalformedBody, match="the body is longer than its Content-Length"):
        await read(bytes(nbytes), b"x", arena=arena, content_length=nbytes)
    with pytest.raises(MalformedBody, match=f"the body ended after {nbytes - 1} of {nbytes} bytes"):
        await read(bytes(nbytes - 1), arena=arena, content_length=nbytes)


# Packed bodies ----------------------------------------------------------------------------------


@given(st.binary(max_size=500), st.integers(1, 100), st.sampled_from(["gzip", "deflate", "GZip "]))
def test_packed_bodies_are_unpacked_whatever_the_chunks(
    body: bytes, step: int, encoding: str
) -> None:
    packed = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    chunks = [packed[start : start + step] for start in range(0, len(packed), step)]
    unpacked = asyncio.run(read(*chunks, content_encoding=encoding, content_length=len(packed)))
    assert body == unpacked.tobytes()


async def test_a_packed_body_of_many_pieces_arrives_whole() -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    body = await read(gzip.compress(noise), content_encoding="gzip")
    assert noise == body.tobytes()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 500, ""])
async def test_another_encoding_is_refused_in_few_words(encoding: str) -> None:
    with pytest.raises(MalformedBody, match="is not gzip, deflate or identity") as caught:
        await read(b"x", content_encoding=encoding)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("unpacked", [999, 1000])
async def test_the_limit_holds_for_the_unpacked_size_up_to_the_last_byte(unpacked: int) -> None:
    body = await read(gzip.compress(bytes(unpacked)), limit=1000, content_encoding="gzip")
    assert unpacked == body.size


@pytest.mark.parametrize("nbytes", [1001, 1002, 100_000])
async def test_one_byte_over_the_limit_after_unpacking_is_refused(nbytes: int) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await read(gzip.compress(bytes(nbytes)), limit=1000, content_encoding="gzip")
    assert (
        "decompressed request body of 1001 exceeds limits.body_bytes (1000)" == caught.value.message
    )


async def test_the_limit_holds_for_the_packed_size_too() -> None:
    packed = gzip.compress(np.random.default_rng(1).bytes(2000))
    with pytest.raises(LimitExceeded, match="request body of"):
        await read(packed, limit=1000, content_encoding="gzip")


async def test_a_bomb_takes_no_more_memory_than_the_limit_allows() -> None:
    bomb = gzip.compress(bytes(64 * MiB))
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            await read(bomb, limit=MiB, content_encoding="gzip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MiB


@given(st.data())
def test_a_truncated_packed_body_is_refused_at_any_length(data: st.DataObject) -> None:
    packed = gzip.compress(pattern(600))
    kept = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(MalformedBody, match="the compressed body ends too early"):
        asyncio.run(read(packed[:kept], content_encoding="gzip"))


@pytest.mark.parametrize(
    "rest", [b"x", bytes(100_000), gzip.compress(b"more")], ids=["byte", "zeros", "member"]
)
async def test_what_follows_the_end_of_a_packed_body_is_refused(rest: bytes) -> None:
    with pytest.raises(MalformedBody, match="the compressed body has bytes after its end"):
        await read(gzip.compress(b"body") + rest, content_encoding="gzip")


async def test_a_member_that_ends_at_a_piece_end_hides_nothing_behind_it() -> None:
    packed = next(
        packed
        for size in range(65_400, 65_536)
        if len(packed := gzip.compress(np.random.default_rng(1).bytes(size), 0)) == 1 << 16
    )
    assert 1 << 16 == len(packed)
    with pytest.raises(MalformedBody, match="has bytes after its end"):
        await read(packed, b"x", content_encoding="gzip")


@pytest.mark.parametrize("body", [b"plain", raw_deflate(b"raw"), b"\x1f\x8b\x08\xff garbage"])
async def test_bytes_that_are_not_packed_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="compressed body"):
        await read(body, content_encoding="deflate")


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_random_packed_bytes_raise_nothing_but_client_errors(body: bytes, encoding: str) -> None:
    for start in (b"", b"\x1f\x8b\x08", b"\x78\x9c"):
        with contextlib.suppress(MalformedBody, LimitExceeded):
            asyncio.run(read(start + body, limit=1000, content_encoding=encoding))


# Shared memory ----------------------------------------------------------------------------------


@needs_arena
@given(st.integers(0, 300))
def test_what_follows_the_json_is_aligned_in_shared_memory(json_length: int) -> None:
    arena = Arena(MiB)
    body = pattern(LARGE)
    read_into = asyncio.run(
        read(
            body[:1000],
            body[1000:],
            arena=arena,
            json_length=json_length,
            content_length=LARGE,
        )
    )
    assert body == read_into.tobytes()
    assert arena.offset_of(read_into) is not None
    assert 0 == read_into[json_length:].ctypes.data % ALIGNMENT


@needs_arena
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("nbytes", [INLINE_BYTES, LARGE])
async def test_only_large_bodies_of_known_length_take_shared_memory(
    nbytes: int, announced: bool
) -> None:
    arena = Arena(MiB)
    body = await read(pattern(nbytes), arena=arena, content_length=nbytes if announced else None)
    assert (announced and nbytes == LARGE) == (arena.offset_of(body) is not None)
    assert pattern(nbytes) == body.tobytes()


@needs_arena
async def test_a_full_arena_leaves_the_body_on_the_heap_and_writable() -> None:
    arena = Arena(MiB)
    taken = arena.allocate(arena.free_bytes)
    body = await read(pattern(LARGE), arena=arena, content_length=LARGE)
    assert arena.offset_of(body) is None
    assert pattern(LARGE) == body.tobytes()
    assert body.flags.writeable  # OpenVINO shares nothing else
    assert taken is not None


@needs_arena
async def test_a_json_length_beyond_the_body_does_no_harm() -> None:
    body = await read(pattern(LARGE), arena=Arena(MiB), json_length=10**17, content_length=LARGE)
    assert pattern(LARGE) == body.tobytes()


@needs_arena
def test_a_reader_cancelled_midway_gives_its_memory_back() -> None:
    arena = Arena(MiB)
    free = arena.free_bytes

    async def cancel_midway() -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        async def stuck() -> AsyncIterator[bytes]:
            yield b"first"
            begun.set()
            await never.wait()

        task = asyncio.create_task(read_body(stuck(), {"content-length": str(LARGE)}, MiB, arena))
        await begun.wait()
        assert arena.free_bytes <= free - LARGE
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_midway())
    gc.collect()
    assert free == arena.free_bytes


@needs_arena
async def test_a_refused_body_gives_its_memory_back() -> None:
    arena = Arena(MiB)
    free = arena.free_bytes
    with pytest.raises(MalformedBody):
        await read(b"short", arena=arena, content_length=LARGE)
    gc.collect()
    assert free == arena.free_bytes
