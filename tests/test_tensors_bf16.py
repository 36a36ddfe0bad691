"""BF16 to float32 and back."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.tensors import bf16_to_float32, float32_to_bf16
from tests.strategies import shapes

bit_patterns = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(
        lambda kept, dropped: kept << 16 | dropped,
        st.integers(0, 2**16 - 1),
        st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]),
    ),
)


def widened(bits: int) -> float:
    (value,) = struct.unpack("<f", struct.pack("<I", bits << 16))
    return float(value)


def exact(bits: int) -> Fraction:
    """A finite value itself, and for infinity the next power of two."""
    sign = -1 if bits >> 15 else 1
    magnitude = bits & 0x7FFF
    return sign * (Fraction(2) ** 128 if magnitude == 0x7F80 else Fraction(widened(magnitude)))


def rounded(bits: int) -> int:
    """The reference: the nearer of the two neighbours, or the even one of two equally near."""
    below = bits >> 16
    if bits & 0x7FFFFFFF == 0x7F800000:
        return below
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    neighbours = (below, below + 1)
    return min(neighbours, key=lambda n: (abs(exact(n) - Fraction(value)), n & 1))


def float32_of(bits: int) -> np.ndarray:
    return np.array([bits], np.uint32).view(np.float32)


def test_every_bf16_value_widens_to_its_float32() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = np.array([widened(n) for n in range(2**16)], np.float32)
    np.testing.assert_array_equal(expected, bf16_to_float32(bits))


def test_every_bf16_value_comes_back_from_float32() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    wide = bf16_to_float32(bits)
    again = float32_to_bf16(wide)
    numbers = ~np.isnan(wide)
    np.testing.assert_array_equal(bits[numbers], again[numbers])
    assert np.isnan(bf16_to_float32(again[~numbers])).all()


@given(bit_patterns)
@example(0x3F808000)  # halfway, the lower one even
@example(0x3F818000)  # halfway, the upper one even
@example(0x3F808001)
@example(0x3F817FFF)
@example(0x7F7FFFFF)  # the largest float32 is nearer to infinity
@example(0x7F7F7FFF)
@example(0xFF800000)
@example(0x80000000)
@example(0x00008000)  # denormal, halfway
@example(0x00008001)
def test_float32_is_rounded_to_the_nearest_bf16_and_ties_to_even(bits: int) -> None:
    value = float32_of(bits)
    if np.isnan(value).any():
        return
    assert rounded(bits) == float32_to_bf16(value)[0]


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0xFFFF8000])
def test_not_a_number_stays_one_and_keeps_its_sign(bits: int) -> None:
    for value in (float32_of(bits), float32_of(bits).reshape(())):
        narrow = float32_to_bf16(value)
        assert np.isnan(bf16_to_float32(narrow)).all()
        assert bits >> 31 == int(narrow.flat[0]) >> 15


@given(shapes)
def test_bf16_conversions_keep_the_shape(shape: tuple[int, ...]) -> None:
    values = np.full(shape, -2.5, np.float32)
    bits = float32_to_bf16(values)
    assert isinstance(bits, np.ndarray)
    assert (shape, np.dtype(np.uint16)) == (bits.shape, bits.dtype)
    again = bf16_to_float32(bits)
    assert isinstance(again, np.ndarray)
    assert (shape, np.dtype(np.float32)) == (again.shape, again.dtype)
    np.testing.assert_array_equal(values, again)


def test_bf16_conversions_follow_the_order_of_elements_not_of_memory() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    bits = float32_to_bf16(values)
    np.testing.assert_array_equal(values, bf16_to_float32(bits))
    np.testing.assert_array_equal(values.T, bf16_to_float32(bits.T))
