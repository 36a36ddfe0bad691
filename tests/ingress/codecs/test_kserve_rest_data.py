"""Tensor data of requests: every datatype, as JSON and as binary data."""

from math import prod
from typing import Any, Literal

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BF16, NUMPY_DTYPES
from deployments.errors import (
    InvalidRequest,
    MalformedBody,
    ValueOutOfRange,
    WrongByteCount,
    WrongElementCount,
)
from deployments.tensors import bf16_to_float32
from tests.ingress.codecs.kserve_requests import (
    LIMITS,
    entry,
    nested,
    numbers,
    parse_request,
    parsed,
    parsed_input,
    shapes,
)

INTEGERS = [name for name in NUMPY_DTYPES if "INT" in name]
WIDTHS: dict[str, Literal[16, 32, 64]] = {"FP16": 16, "FP32": 32, "FP64": 64}
FLOATS = [*WIDTHS, BF16]
WRITTEN = b'{"inputs":[{"name":"x","datatype":"%s","shape":%s,"data":%s}]}'


def values(datatype: str) -> st.SearchStrategy[Any]:
    """Values that the datatype holds exactly, as JSON writes them."""
    if datatype == "BOOL":
        return st.booleans()
    if datatype in INTEGERS:
        ends = np.iinfo(NUMPY_DTYPES[datatype])
        return st.integers(int(ends.min), int(ends.max)) | st.sampled_from([ends.min, ends.max])
    if datatype == BF16:
        return st.integers(0, 0xFFFF).map(bf16_value).filter(np.isfinite)
    width = WIDTHS[datatype]
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


def bf16_value(bits: int) -> float:
    return float(bf16_to_float32(np.array([bits], np.uint16))[0])


def bf16_bits(flat: list[Any]) -> Any:
    """The bit patterns of numbers that bfloat16 holds exactly: the upper half of float32's."""
    return (np.array(flat, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def array_of(datatype: str, shape: tuple[int, ...], flat: list[Any]) -> Any:
    if datatype == BF16:
        return bf16_bits(flat).reshape(shape)
    return np.array(flat, NUMPY_DTYPES[datatype]).reshape(shape)


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
@given(st.data())
def test_numbers_arrive_as_written_flat_nested_and_binary(
    datatype: str, data: st.DataObject
) -> None:
    shape = data.draw(shapes)
    count = prod(shape)
    flat = data.draw(st.lists(values(datatype), min_size=count, max_size=count))
    expected = array_of(datatype, shape, flat)
    raw = expected.tobytes()
    size = {"binary_data_size": len(raw)}
    for tensor in (
        parsed_input(entry("x", datatype, shape, data=flat)),
        parsed_input(entry("x", datatype, shape, data=nested(shape, flat))),
        parsed_input(entry("x", datatype, shape, parameters=size), raw, b""),
        parsed_input(entry("x", datatype, shape), raw, b""),
    ):
        assert (datatype, shape) == (tensor.datatype, tensor.shape)
        assert expected.dtype == numbers(tensor).dtype
        assert raw == numbers(tensor).tobytes()


@given(st.lists(st.tuples(st.sampled_from(sorted(NUMPY_DTYPES)), shapes), max_size=5), st.data())
def test_binary_data_is_taken_in_the_order_of_the_inputs(
    ports: list[tuple[str, tuple[int, ...]]], data: st.DataObject
) -> None:
    raws = [
        data.draw(st.binary(min_size=size, max_size=size))
        for datatype, shape in ports
        for size in [prod(shape) * NUMPY_DTYPES[datatype].itemsize]
    ]
    inputs = [
        entry(f"input {n}", datatype, shape, parameters={"binary_data_size": len(raw)})
        for n, ((datatype, shape), raw) in enumerate(zip(ports, raws, strict=True))
    ]
    request = parsed({"inputs": inputs}, *raws, b"")
    assert raws == [numbers(tensor).tobytes() for tensor in request.tensors]


def test_json_and_binary_inputs_mix() -> None:
    inputs = [
        entry("a", "UINT8", (2,), parameters={"binary_data_size": 2}),
        entry("b", "UINT8", (2,), data=[3, 4]),
        entry("c", "UINT8", (2,)),
    ]
    request = parsed({"inputs": inputs}, b"\x01\x02", b"\x05\x06")
    assert [[1, 2], [3, 4], [5, 6]] == [numbers(tensor).tolist() for tensor in request.tensors]


def test_aligned_binary_numbers_are_not_copied() -> None:
    head = orjson.dumps({"inputs": [entry(shape=(8,))]})
    head += b" " * (-len(head) % 64)
    body = np.concatenate([np.frombuffer(head, np.uint8), np.zeros(32, np.uint8)])
    (tensor,) = parse_request(body, len(head), LIMITS).tensors
    body[-4:] = np.frombuffer(np.float32(7).tobytes(), np.uint8)
    assert [0.0] * 7 + [7.0] == numbers(tensor).tolist()


def test_numbers_at_odd_addresses_are_read_right() -> None:
    raw = np.arange(8, dtype=np.float64).tobytes()
    for padding in range(8):
        head = orjson.dumps({"inputs": [entry("x", "FP64", (8,))]}) + b" " * padding
        (tensor,) = parsed(head, raw).tensors
        assert list(range(8)) == numbers(tensor).tolist()
        assert numbers(tensor).flags.aligned


# Numbers in JSON --------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_keep_their_full_range_in_json(datatype: str) -> None:
    ends = np.iinfo(NUMPY_DTYPES[datatype])
    tensor = parsed_input(entry("x", datatype, (2,), data=[int(ends.min), int(ends.max)]))
    assert [ends.min, ends.max] == numbers(tensor).tolist()


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("beyond", [1, 10**30])
def test_integers_beyond_their_datatype_are_refused(datatype: str, beyond: int) -> None:
    ends = np.iinfo(NUMPY_DTYPES[datatype])
    for value in (int(ends.min) - beyond, int(ends.max) + beyond):
        with pytest.raises(ValueOutOfRange, match=f"has a value that does not fit {datatype}"):
            parsed(WRITTEN % (datatype.encode(), b"[2]", b"[0,%d]" % value))


@pytest.mark.parametrize("datatype", ["INT64", "UINT64", "FP32", "FP64"])
@pytest.mark.parametrize("value", [b"1e400", b"-1e400", b"1" + b"0" * 5000, b"NaN", b"-Infinity"])
def test_numbers_that_no_datatype_holds_are_refused(datatype: str, value: bytes) -> None:
    with pytest.raises(MalformedBody, match="invalid JSON"):
        parsed(WRITTEN % (datatype.encode(), b"[1]", b"[%s]" % value))


@pytest.mark.parametrize(
    ("datatype", "largest", "too_large"),
    [
        ("FP16", 65504.0, 65520.0),
        (BF16, 3.3895313892515355e38, 3.3961775292304957e38),
        ("FP32", 3.4028234663852886e38, 3.4028235677973366e38),
        ("FP64", 1.7976931348623157e308, None),
    ],
)
def test_floats_are_refused_where_rounding_would_make_them_infinite(
    datatype: str, largest: float, too_large: float | None
) -> None:
    tensor = parsed_input(entry("x", datatype, (2,), data=[largest, -largest]))
    assert array_of(datatype, (2,), [largest, -largest]).tolist() == numbers(tensor).tolist()
    if too_large is not None:
        with pytest.raises(ValueOutOfRange) as caught:
            parsed_input(entry("x", datatype, (2,), data=[0, -too_large]))
        assert f"a value that does not fit {datatype}: {-too_large:g}" in caught.value.message


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats_may_be_written_as_integers(datatype: str) -> None:
    tensor = parsed_input(entry("x", datatype, (3,), data=[0, 1, -128]))
    assert array_of(datatype, (3,), [0.0, 1.0, -128.0]).tolist() == numbers(tensor).tolist()


def test_doubles_keep_all_their_digits() -> None:
    value = 1.0000000000000002
    assert value == numbers(parsed_input(entry("x", "FP64", data=[value])))[0]


def test_floats_round_to_nearest() -> None:
    half = parsed_input(entry("x", "FP16", (2,), data=[1.0004, 1.0006]))
    assert [1.0, 1.0009765625] == numbers(half).tolist()
    brain = parsed_input(entry("x", BF16, (2,), data=[1.003, 1.005]))
    assert [1.0, 1.0078125] == bf16_to_float32(numbers(brain)).tolist()


@pytest.mark.parametrize(
    ("datatype", "odd", "shown"),
    [
        ("BOOL", 1, "1"),
        ("BOOL", "true", '"true"'),
        ("UINT8", True, "true"),
        ("INT32", 1.0, "1.0"),
        ("INT64", "1", '"1"'),
        ("FP32", False, "false"),
        ("FP32", None, "null"),
        ("FP16", "NaN", '"NaN"'),
        ("FP64", {}, "an object"),
        ("FP64", [1], "a list"),
        ("INT8", "x" * 1000, "xxx"),
    ],
)
def test_values_of_another_kind_are_refused_and_shown(datatype: str, odd: Any, shown: str) -> None:
    good = True if datatype == "BOOL" else 1
    with pytest.raises(ValueOutOfRange) as caught:
        parsed_input(entry("x", datatype, (2,), data=[good, odd]))
    assert shown in caught.value.message
    assert len(caught.value.message) < 120


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((2, 2), [[1, 2], [3]]),
        ((2, 2), [[1, 2, 3], [4]]),
        ((2, 2), [[1, 2], 3, 4]),
        ((2, 2), [1, 2, [3, 4]]),
        ((2, 2), [[1, 2, 3, 4]]),
        ((2, 2), [[[1], [2]], [[3], [4]]]),
        ((2, 2), [[1], [2], [3], [4]]),
        ((4,), [[1, 2], [3, 4]]),
        ((4,), [[1], [2], [3], [4]]),
        ((1, 4), [[[1, 2], [3, 4]]]),
        ((0,), [[]]),
        ((), [[1]]),
        ((2, 2), [[], []]),
        ((2, 0), [[1], []]),
    ],
)
def test_data_nested_otherwise_than_its_shape_is_refused(shape: tuple[int, ...], data: Any) -> None:
    with pytest.raises(InvalidRequest):
        parsed_input(entry("x", "INT32", shape, data=data))


@pytest.mark.parametrize("data", [[1, 2, 3], [1] * 5, []])
def test_the_error_of_a_wrong_number_of_values_has_both_numbers(data: list[int]) -> None:
    with pytest.raises(WrongElementCount) as caught:
        parsed_input(entry("x", "INT32", (2, 2), data=data))
    assert f"input 'x' has {len(data)} values, its shape [2,2] needs 4" == caught.value.message


@pytest.mark.parametrize("data", [None, 1, "1", {"0": 1}])
def test_data_that_is_no_list_is_refused(data: Any) -> None:
    with pytest.raises(MalformedBody, match="'data' of input 'x' is not a list"):
        parsed_input(entry("x", "INT32", (1,), data=data))


@pytest.mark.parametrize("levels", [10, 300, 1000])
def test_data_nested_very_deep_is_refused(levels: int) -> None:
    deep = b"[" * levels + b"1" + b"]" * levels
    for shape in (b"[1]", b"[1,1,1,1,1,1,1,1]"):
        with pytest.raises(InvalidRequest):
            parsed(WRITTEN % (b"FP32", shape, deep))


@pytest.mark.parametrize("data", [5, [5]])
def test_a_scalar_may_stand_alone_or_in_a_list(data: Any) -> None:
    assert 5 == numbers(parsed_input(entry("x", "INT32", (), data=data)))


# Binary data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_binary_size_that_contradicts_the_shape_is_refused(
    datatype: str, difference: int
) -> None:
    needed = 6 * NUMPY_DTYPES[datatype].itemsize
    raw = bytes(needed + difference)
    given = entry("x", datatype, (2, 3), parameters={"binary_data_size": len(raw)})
    with pytest.raises(WrongByteCount) as caught:
        parsed_input(given, raw)
    expected = f"input 'x' has {len(raw)} bytes, its shape [2,3] needs {needed}"
    assert expected == caught.value.message
