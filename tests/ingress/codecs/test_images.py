import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from deployments.datatypes import BF16, BYTES
from deployments.dimensions import Dim
from deployments.errors import InvalidImage, MalformedBody
from deployments.inference import InputSpec
from deployments.ingress.codecs.images import is_picture_input
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, bf16_to_float32
from tests.ingress.codecs.pictures import OPEN, Layout, decoded, packed, png_of, scene, sent, spec


def test_only_strings_for_a_picture_input_are_pictures() -> None:
    numbers = Tensor("data", "UINT8", (1,), np.zeros(1, np.uint8))
    assert is_picture_input(spec(), sent(b""))
    assert not is_picture_input(spec(), numbers)
    assert not is_picture_input(InputSpec("data", BYTES, (OPEN,)), sent(b""))


# What a picture becomes -------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", ["UINT8", "INT16", "INT64", "FP16", BF16, "FP32", "FP64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_png_arrives_pixel_by_pixel_in_blue_green_red(layout: Layout, datatype: str) -> None:
    picture = scene(20, 30, 3)
    pixels = decoded(packed(picture), to=spec(layout, datatype=datatype))
    values = bf16_to_float32(pixels) if datatype == BF16 else pixels
    expected = picture.transpose(2, 0, 1) if layout == "NCHW" else picture
    assert expected[np.newaxis].tolist() == values.tolist()


@pytest.mark.parametrize("datatype", ["UINT8", BF16, "FP32"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_where_clients_send_red_green_blue_a_picture_arrives_so(
    layout: Layout, datatype: str
) -> None:
    picture = scene(20, 30, 3)
    pixels = decoded(packed(picture), to=spec(layout, datatype=datatype, colors="RGB"))
    values = bf16_to_float32(pixels) if datatype == BF16 else pixels
    red_first = picture[:, :, [2, 1, 0]]
    expected = red_first.transpose(2, 0, 1) if layout == "NCHW" else red_first
    assert expected[np.newaxis].tolist() == values.tolist()


def test_grey_is_grey_in_any_order_of_colours() -> None:
    grey = scene(20, 30)
    pixels = decoded(packed(grey), to=spec(channels=1, colors="RGB"))
    assert grey.tolist() == pixels.reshape(20, 30).tolist()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_jpeg_arrives_in_blue_green_red(layout: Layout) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 250, 10, 120
    picture[:, 16:] = 20, 130, 240
    pixels = decoded(packed(picture, "jpg"), to=spec(layout))[0]
    rows = pixels.transpose(1, 2, 0) if layout == "NCHW" else pixels
    # JPEG keeps colour at half the resolution: where the two touch they are mixed.
    clear = [0, 8, 23, 31]
    assert np.abs(rows.astype(int) - picture)[:, clear].max() < 4


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (1, 1, 20, 30)), ("NHWC", (1, 20, 30, 1))])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_model_of_one_channel_gets_grey(
    layout: Layout, shape: tuple[int, ...], kind: str
) -> None:
    grey = scene(20, 30)
    coloured = np.dstack([grey] * 3)
    for raw in (packed(grey, kind), packed(coloured, kind)):
        pixels = decoded(raw, to=spec(layout, channels=1))
        assert shape == pixels.shape
        assert np.abs(pixels.reshape(20, 30).astype(int) - grey).max() < 12


def test_a_grey_picture_becomes_three_equal_channels() -> None:
    grey = scene(20, 30)
    assert np.dstack([grey] * 3).tolist() == decoded(packed(grey))[0].tolist()


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    picture = scene(20, 30, 3)
    assert picture.tolist() == decoded(packed(picture.astype(np.uint16) * 257))[0].tolist()


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_transparency_is_left_out(opacity: int) -> None:
    picture = scene(20, 30, 3)
    see_through = np.dstack([picture, np.full((20, 30), opacity, np.uint8)])
    assert picture.tolist() == decoded(packed(see_through))[0].tolist()


def test_a_palette_gives_its_colours() -> None:
    palette = b"PLTE", bytes([255, 0, 0, 0, 128, 0])  # red, green
    rows = b"IDAT", zlib.compress(b"\0\0\1" + b"\0\1\0")
    pixels = decoded(png_of(2, 2, palette, rows, colour_type=3))
    assert [[[0, 0, 255], [0, 128, 0]], [[0, 128, 0], [0, 0, 255]]] == pixels[0].tolist()


def turned(raw: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF orientation (JEITA CP-3451, tag 0x112)."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + raw[2:]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda rows: rows),
        (3, lambda rows: rows[::-1, ::-1]),
        (6, lambda rows: rows.transpose(1, 0, 2)[:, ::-1]),
        (8, lambda rows: rows.transpose(1, 0, 2)[::-1]),
    ],
)
def test_pictures_are_turned_as_their_exif_orientation_says(
    orientation: int, upright: Callable[[Array], Array]
) -> None:
    raw = packed(scene(16, 24, 3), "jpg")
    straight = decoded(raw)[0]
    pixels = decoded(turned(raw, orientation), limits=Limits(image_pixels=16 * 24))[0]
    assert upright(straight).tolist() == pixels.tolist()


# Sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("height", "width", "parameters", "expected"),
    [
        (OPEN, OPEN, {}, (20, 30)),
        (Dim(10, 10), Dim(40, 40), {}, (10, 40)),
        (Dim(10, 10), Dim(40, 40), {"height": 5, "width": 5}, (10, 40)),
        (Dim(10, 10), OPEN, {}, (10, 30)),
        (OPEN, Dim(40, 40), {}, (20, 40)),
        (OPEN, OPEN, {"height": 7, "width": 9}, (7, 9)),
        (OPEN, OPEN, {"height": 7}, (7, 30)),
        (OPEN, OPEN, {"width": 9}, (20, 9)),
        (Dim(8, 64), Dim(8, 64), {}, (20, 30)),
        (Dim(8, 64), Dim(8, 64), {"width": 64}, (20, 64)),
        (OPEN, OPEN, {"height": 1, "width": 1}, (1, 1)),
        (OPEN, OPEN, {"height": None}, (20, 30)),
        (OPEN, Dim(40, 40), {"width": "ignored where the model fixes it"}, (20, 40)),
    ],
)
def test_the_size_is_the_models_else_the_requests_else_the_pictures_own(
    layout: Layout,
    height: Dim,
    width: Dim,
    parameters: Mapping[str, Any],
    expected: tuple[int, int],
) -> None:
    pixels = decoded(packed(scene(20, 30, 3)), to=spec(layout, height, width), **parameters)
    shape = (1, 3, *expected) if layout == "NCHW" else (1, *expected, 3)
    assert shape == pixels.shape


def test_a_scaled_picture_is_still_that_picture() -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 20:] = 10, 100, 200
    pixels = decoded(packed(picture), height=40, width=80)[0]
    assert [0, 0, 0] == pixels[20, 10].tolist()
    assert [10, 100, 200] == pixels[20, 70].tolist()


@pytest.mark.parametrize("name", ["height", "width"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "300", [300], {}, "x" * 999])
def test_a_wanted_size_is_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(MalformedBody) as caught:
        decoded(packed(scene(8, 8, 3)), **{name: value})
    expected = f"input 'data' has {name} {str(value)[:40]}, not an integer >= 1"
    assert f"malformed request: {expected}" == caught.value.message


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_several_pictures_keep_their_order(layout: Layout) -> None:
    pictures = [scene(16, 24, 3, seed=seed) for seed in range(4)]
    pixels = decoded(*map(packed, pictures), to=spec(layout))
    batch = np.stack(pictures)
    expected = batch.transpose(0, 3, 1, 2) if layout == "NCHW" else batch
    assert expected.tolist() == pixels.tolist()


def test_pictures_of_several_sizes_are_refused_with_the_first_that_differs() -> None:
    sizes = [(20, 30), (20, 30), (30, 20), (1, 1)]
    with pytest.raises(InvalidImage, match="'data', image 2: is 20x30, image 0 is 30x20; "):
        decoded(*(packed(scene(*size, 3)) for size in sizes))


def test_pictures_of_several_sizes_are_taken_where_the_size_is_given() -> None:
    sizes = [(20, 30), (30, 20), (1, 1)]
    pixels = decoded(*(packed(scene(*size, 3)) for size in sizes), height=8, width=9)
    assert (3, 8, 9, 3) == pixels.shape


def test_the_pixels_are_written_where_the_caller_wants_them() -> None:
    space = np.zeros(2 * 20 * 30 * 3 * 4, np.uint8)
    asked: list[int] = []

    def allocate(nbytes: int) -> Array:
        asked.append(nbytes)
        return space

    raw = packed(scene(20, 30, 3))
    pixels = decoded(raw, raw, to=spec("NCHW", datatype="FP32"), allocate=allocate)
    assert [space.size] == asked
    assert np.shares_memory(space, pixels)
