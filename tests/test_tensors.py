import struct
from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.errors import InvalidShape, LimitExceeded, MalformedBody, WrongByteCount
from deployments.tensors import (
    BYTES,
    DATATYPES,
    NUMPY_DTYPES,
    Array,
    Tensor,
    bf16_to_float32,
    checked_shape,
    float32_to_bf16,
    from_bytes,
    split_strings,
    to_bytes,
)
from tests.strategies import contents, numeric_datatypes, shapes, tensors

strings = st.lists(st.binary(max_size=300), max_size=6)
bit_patterns = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(
        lambda kept, dropped: kept << 16 | dropped,
        st.integers(0, 2**16 - 1),
        st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]),
    ),
)


def vector(raw: bytes | bytearray) -> Array:
    return np.frombuffer(raw, np.uint8)


def framed(items: list[bytes]) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


@pytest.mark.parametrize(
    ("datatype", "wire", "value"),
    [
        ("BOOL", b"\1", True),
        ("UINT8", b"\xff", 2**8 - 1),
        ("UINT16", b"\xfe\xff", 2**16 - 2),
        ("UINT32", b"\xfe\xff\xff\xff", 2**32 - 2),
        ("UINT64", b"\xfe" + b"\xff" * 7, 2**64 - 2),
        ("INT8", b"\x80", -(2**7)),
        ("INT16", b"\1\x80", 1 - 2**15),
        ("INT32", b"\1\0\0\x80", 1 - 2**31),
        ("INT64", b"\1" + b"\0" * 6 + b"\x80", 1 - 2**63),
        ("FP16", b"\0\xc1", -2.5),
        ("BF16", b"\x20\xc0", 0xC020),
        ("FP32", b"\0\0\x20\xc0", -2.5),
        ("FP64", b"\0" * 6 + b"\x04\xc0", -2.5),
    ],
)
def test_numbers_are_little_endian_and_of_the_datatype_s_size(
    datatype: str, wire: bytes, value: float
) -> None:
    tensor = from_bytes("x", datatype, (1,), vector(wire))
    assert [value] == np.asarray(tensor.data).tolist()
    assert wire == bytes(to_bytes(tensor))


def test_the_datatypes_are_those_of_the_protocol() -> None:
    numbers = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64"
    assert {*numbers.split(), "BYTES"} == DATATYPES
    assert set(numbers.split()) == set(NUMPY_DTYPES)


@given(tensors(), st.integers(0, 8))
@example(Tensor("x", "FP64", (), np.array(1.5)), 1)
@example(Tensor("x", "FP32", (2, 0, 3), np.empty((2, 0, 3), np.float32)), 3)
def test_every_datatype_and_shape_survives_the_wire_at_every_address(
    tensor: Tensor, address: int
) -> None:
    wire = bytes(to_bytes(tensor))
    body = vector(bytearray(bytes(address) + wire + bytes(8)))[address : address + len(wire)]
    again = from_bytes(tensor.name, tensor.datatype, tensor.shape, body)
    assert contents(tensor) == contents(again)
    assert len(wire) == tensor.nbytes == again.nbytes
    if not isinstance(again.data, list):
        assert again.data.flags.aligned
        assert again.data.flags.c_contiguous
        if again.data.size:
            aligned = body.ctypes.data % again.data.itemsize == 0
            assert aligned == np.shares_memory(body, again.data)


@given(numeric_datatypes, shapes, st.integers(0, 700))
def test_another_number_of_bytes_than_the_shape_needs_is_refused(
    datatype: str, shape: tuple[int, ...], size: int
) -> None:
    expected = prod(shape) * NUMPY_DTYPES[datatype].itemsize
    body = np.zeros(size, np.uint8)
    if size == expected:
        assert shape == from_bytes("x", datatype, shape, body).shape
    else:
        with pytest.raises(WrongByteCount, match=f"has {size} bytes, .* needs {expected}$"):
            from_bytes("x", datatype, shape, body)


@given(tensors(numeric_datatypes))
def test_writing_contiguous_numbers_copies_nothing(tensor: Tensor) -> None:
    assert not isinstance(tensor.data, list)
    wire = np.frombuffer(to_bytes(tensor), np.uint8)
    assert tensor.data.nbytes == wire.nbytes
    assert np.shares_memory(wire, tensor.data) == bool(wire.nbytes)


def test_numbers_that_lie_otherwise_are_written_in_row_major_order() -> None:
    transposed = np.arange(6, dtype=np.int16).reshape(2, 3).T
    wire = to_bytes(Tensor("x", "INT16", (3, 2), transposed))
    assert struct.pack("<6h", 0, 3, 1, 4, 2, 5) == bytes(wire)


# Strings ----------------------------------------------------------------------------------------


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


# Shapes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[], [0], [1, 3, 300, 300], [0, 5], (2, 2)])
def test_a_shape_within_the_limits_is_taken(shape: list[int]) -> None:
    assert tuple(shape) == checked_shape("x", shape, rank=4, elements=270_000)


@pytest.mark.parametrize(
    "shape",
    [
        None,
        3,
        "12",
        b"12",
        {"1": 1},
        {1},
        [-1],
        [1, 2.0],
        [True],
        [None],
        ["1"],
        [[1]],
        [1, -(2**70)],
    ],
)
def test_invalid_lists_of_sizes_are_refused(shape: object) -> None:
    with pytest.raises(InvalidShape, match=r"^input 'x' has shape .*, not a list of integers"):
        checked_shape("x", shape, rank=8, elements=100)


def test_a_shape_nested_deeper_than_python_can_print_is_refused_in_few_words() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidShape) as error:
        checked_shape("x", nested, rank=8, elements=100)
    assert len(error.value.message) < 300


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ([1] * 5, "rank of input 'x' of 5 exceeds limits.rank (4)"),
        ([101], "element count of input 'x' of 101 exceeds limits.elements (100)"),
        ([2**32, 2**32], f"element count of input 'x' of {2**64} exceeds limits.elements (100)"),
        ([0, 2**62, 4], f"element count of input 'x' of {2**64} exceeds limits.elements (100)"),
        (
            [2**64 - 1, 0],
            f"element count of input 'x' of {2**64 - 1} exceeds limits.elements (100)",
        ),
    ],
)
def test_a_shape_over_a_limit_is_refused_with_the_limit(shape: list[int], complaint: str) -> None:
    with pytest.raises(LimitExceeded) as error:
        checked_shape("x", shape, rank=4, elements=100)
    assert complaint == error.value.message


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**65)), max_size=8), numeric_datatypes)
def test_a_tensor_can_be_made_of_every_shape_that_passes(shape: list[int], datatype: str) -> None:
    try:
        checked = checked_shape("x", shape, rank=8, elements=1000)
    except LimitExceeded:
        assert max(shape) > 5 or prod(n for n in shape if n) > 1000
        return
    body = np.zeros(prod(checked) * NUMPY_DTYPES[datatype].itemsize, np.uint8)
    assert tuple(shape) == from_bytes("x", datatype, checked, body).shape


# Rows -------------------------------------------------------------------------------------------


@given(tensors(shape=shapes.filter(bool)), st.data())
def test_rows_are_a_part_along_the_first_dimension(tensor: Tensor, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, tensor.shape[0]))
    stop = data.draw(st.integers(start, tensor.shape[0]))
    rows = tensor.rows(start, stop)
    row_bytes = [tensor.rows(i, i + 1) for i in range(start, stop)]
    assert (tensor.name, tensor.datatype) == (rows.name, rows.datatype)
    assert (stop - start, *tensor.shape[1:]) == rows.shape
    assert b"".join(bytes(to_bytes(row)) for row in row_bytes) == bytes(to_bytes(rows))
    assert contents(tensor) == contents(tensor.rows(0, tensor.shape[0]))
    if not isinstance(tensor.data, list) and rows.nbytes:
        assert not isinstance(rows.data, list)
        assert np.shares_memory(tensor.data, rows.data)


def test_rows_of_strings_take_whole_rows() -> None:
    tensor = Tensor("x", BYTES, (3, 2), [b"0", b"1", b"2", b"3", b"4", b"5"])
    assert Tensor("x", BYTES, (2, 2), [b"2", b"3", b"4", b"5"]) == tensor.rows(1, 3)


# BF16 -------------------------------------------------------------------------------------------


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
