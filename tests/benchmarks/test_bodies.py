"""What the load generator sends is what the servers of the arms understand."""

import cv2
import numpy as np
import pytest

from benchmarks.bodies import Form, body, buffer, data_bytes, head
from benchmarks.received import received
from benchmarks.shapes import Shape

SMALL: Shape = (1, 3, 24, 32)


@pytest.mark.parametrize(("form", "dtype"), [("FP32", np.float32), ("UINT8", np.uint8)])
async def test_numbers_arrive_in_their_shape(form: Form, dtype: type) -> None:
    content, length = body(form, SMALL)

    data = await received(content, str(length))

    assert SMALL == data.shape
    assert dtype == data.dtype
    assert 0 <= data.min() < data.max() <= 255


async def test_a_picture_arrives_as_the_decoder_gives_it() -> None:
    content, length = body("JPEG", SMALL)
    raw = content[length + 4 :]
    picture = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)

    data = await received(bytearray(content), str(length))

    assert SMALL == data.shape
    assert np.float32 == data.dtype
    np.testing.assert_array_equal(picture, data[0].transpose(1, 2, 0))


def test_a_smaller_shape_sends_the_beginning_of_the_same_data() -> None:
    large: Shape = (1, 3, 40, 40)
    whole = buffer("FP32", (SMALL, large))
    nbytes = data_bytes("FP32", SMALL, whole)

    assert 4 * 3 * 40 * 40 == len(whole)
    assert body("FP32", SMALL)[0] == head("FP32", SMALL, nbytes) + whole[:nbytes]


def test_a_request_s_json_is_one_line() -> None:
    assert b"\n" not in head("FP32", SMALL, 1)
