import struct
from math import prod

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.datatypes import BYTES, DATATYPES, NUMPY_DTYPES
from deployments.errors import WrongByteCount
from deployments.tensors import Tensor, from_bytes, to_bytes
from tests.strategies import contents, numeric_datatypes, shapes, tensors
from tests.wire_bytes import vector

# Numbers ----------------------------------------------------------------------------------------


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
    assert {*numbers.split(), "BYTES"} == DATATYPES.keys()
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
