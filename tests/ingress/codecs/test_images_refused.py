"""Refused pictures, and a check that no bytes get past the limits."""

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import InvalidImage, LimitExceeded, ServingError, WrongRank
from deployments.ingress.codecs.images import decode_pictures
from deployments.settings import Limits
from tests.ingress.codecs.pictures import (
    LIMITS,
    decoded,
    new_space,
    packed,
    png_of,
    scene,
    sent,
    spec,
)


def refusal(*pictures: bytes, **options: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        decoded(*pictures, **options)
    assert caught.value.http_status in (400, 413)
    return caught.value


def test_no_picture_at_all_is_refused() -> None:
    assert "malformed request: input 'data' has no image" == refusal().message


@pytest.mark.parametrize("shape", [(), (1, 1), (1, 1, 1, 1)])
def test_pictures_come_in_one_dimension(shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongRank, match="the model takes 1 \\[N\\]"):
        decode_pictures(spec(), sent(b"x", shape=shape), {}, LIMITS, new_space)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xd8", b"\x89PNG", b"GIF89a\1\0\1\0", packed(scene(8, 8, 3), "bmp"), b"text"],
    ids=["empty", "half a JPEG signature", "half a PNG signature", "GIF", "BMP", "text"],
)
def test_what_is_neither_jpeg_nor_png_is_refused_with_its_place(raw: bytes) -> None:
    error = refusal(packed(scene(8, 8, 3)), raw)
    assert "input 'data', image 1: is neither JPEG nor PNG" == error.message


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_truncated_picture_is_refused_wherever_it_ends(kind: str) -> None:
    whole = packed(scene(16, 24, 3), kind)
    for length in range(8, len(whole) - 12, 7):
        error = refusal(whole[:length])
        assert error.message.startswith("input 'data', image 0: ")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00",
        b"\x89PNG\r\n\x1a\n",
        png_of(0, 5),
        png_of(5, 0),
        png_of(5, 5).replace(b"IHDR", b"CgBI"),
    ],
)
def test_a_picture_without_a_size_is_refused(raw: bytes) -> None:
    assert "input 'data', image 0: has no readable size" == refusal(raw).message


@pytest.mark.parametrize("size", [(65500, 65500), (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1)])
def test_a_png_that_claims_to_be_huge_is_refused_by_its_header(size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    assert (
        f"pixel count of input 'data', image 0, of {pixels} "
        "exceeds limits.image_pixels (64000000)" == refusal(png_of(*size)).message
    )


def with_jpeg_size(raw: bytes, width: int, height: int) -> bytes:
    frame = raw.index(b"\xff\xc0") + 5
    return raw[:frame] + struct.pack(">HH", height, width) + raw[frame + 4 :]


def test_a_jpeg_that_claims_to_be_huge_is_refused_by_its_header() -> None:
    raw = with_jpeg_size(packed(scene(16, 16, 3), "jpg"), 9000, 8000)
    assert "pixel count of input 'data', image 0, of 72000000 exceeds" in refusal(raw).message


@pytest.mark.parametrize(
    "cover",
    [
        b"\xff\x00",  # a stuffed zero, no marker to the decoder
        b"\xff\xff\x00",
        b"\xff\x01",  # a marker without a length
        b"\xff\xd0",
    ],
)
def test_a_huge_jpeg_does_not_hide_behind_bytes_that_decoders_skip(cover: bytes) -> None:
    small = packed(scene(16, 16, 3), "jpg")
    huge = with_jpeg_size(small, 9000, 8000)[2:]
    hidden = b"\xff\xd8" + cover + struct.pack(">H", len(huge) + 2) + huge + small[2:]
    assert "pixel count of input 'data', image 0, of 72000000 exceeds" in refusal(hidden).message


def test_a_jpeg_with_fill_bytes_and_rubbish_between_its_segments_is_read() -> None:
    raw = packed(scene(16, 24, 3), "jpg")
    loose = raw[:2] + b"\xff\xff" + raw[2:20] + b"rubbish" + raw[20:]
    assert decoded(raw).tolist() == decoded(loose).tolist()


@pytest.mark.parametrize(("limit", "accepted"), [(600, True), (599, False)])
def test_the_pixel_limit_holds_to_the_pixel(limit: int, accepted: bool) -> None:
    limits = Limits(image_pixels=limit)
    for kind in ("png", "jpg"):
        raw = packed(scene(20, 30, 3), kind)
        if accepted:
            assert (1, 20, 30, 3) == decoded(raw, limits=limits).shape
        else:
            assert "limits.image_pixels (599)" in refusal(raw, limits=limits).message


@pytest.mark.parametrize(
    "wanted", [{"height": 101, "width": 100}, {"height": 2000}, {"width": 2**62}]
)
def test_the_pixel_limit_holds_for_the_wanted_size_too(wanted: dict[str, int]) -> None:
    error = refusal(packed(scene(8, 8, 3)), limits=Limits(image_pixels=10_000), **wanted)
    assert "wanted pixel count of input 'data' of" in error.message
    assert "limits.image_pixels (10000)" in error.message


def test_all_pictures_of_a_request_count_against_the_element_limit() -> None:
    raw = packed(scene(10, 10, 3))
    limits = Limits(elements=900)
    assert (3, 10, 10, 3) == decoded(raw, raw, raw, limits=limits).shape
    error = refusal(raw, b"never looked at", raw, raw, limits=limits)
    assert "element count of input 'data' of 1200 exceeds limits.elements (900)" == error.message


def test_more_pictures_than_rows_are_refused_before_any_is_decoded() -> None:
    error = refusal(*[b"not decoded"] * 5, limits=Limits(batch_rows=4))
    assert "batch of 5 exceeds limits.batch_rows (4)" == error.message


# Random bytes -------------------------------------------------------------------------------------

WIDTH, HEIGHT = 24, 16
just_below = Limits(image_pixels=WIDTH * HEIGHT - 1)


def refused_or_bounded(raw: bytes, channels: int = 3) -> None:
    try:
        pixels = decoded(raw, to=spec(channels=channels), limits=just_below)
    except (InvalidImage, LimitExceeded):
        return
    assert pixels.shape[1] * pixels.shape[2] <= just_below.image_pixels


@given(st.binary(max_size=300), st.sampled_from([1, 3]))
def test_random_bytes_behind_a_signature_are_refused(body: bytes, channels: int) -> None:
    for signature in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        refused_or_bounded(signature + body, channels)


def pieces(raw: bytes) -> list[bytes]:
    """A JPEG, cut where its segments begin."""
    starts = [0, 2]
    while raw[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(raw[starts[-1] + 2 : starts[-1] + 4], "big"))
    return [raw[start:end] for start, end in zip(starts, [*starts[1:], len(raw)], strict=True)]


REAL = {kind: packed(scene(HEIGHT, WIDTH, 3), kind) for kind in ("png", "jpg")}
SMALL = packed(scene(8, 8, 3), "jpg")
odd_bytes = st.lists(
    st.sampled_from([b"\xff", b"\0", b"\1", b"\2", b"\xd0", b"\xd8", b"\xda", b"\xe0", b"\xc0"]),
    max_size=5,
).map(b"".join)


@given(
    st.sampled_from(sorted(REAL)),
    st.lists(st.tuples(st.integers(8, 2**20), st.binary(max_size=4)), max_size=4),
)
def test_no_damage_gets_a_picture_past_the_pixel_limit(
    kind: str, damages: Sequence[tuple[int, bytes]]
) -> None:
    raw = bytearray(REAL[kind])
    for position, damage in damages:
        place = position % len(raw)
        raw[place : place + len(damage)] = damage
    refused_or_bounded(bytes(raw))


@given(st.data())
def test_no_jumble_of_segments_gets_a_jpeg_past_the_pixel_limit(data: st.DataObject) -> None:
    real = pieces(REAL["jpg"])
    others = st.sampled_from([*real, *pieces(SMALL)])
    raw = b"\xff\xd8"
    for piece in real[1:]:
        raw += b"".join(data.draw(st.lists(odd_bytes | others, max_size=2))) + piece
    refused_or_bounded(raw)
