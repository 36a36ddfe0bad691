"""Responses, read back with nothing but a JSON parser and the specification."""

import struct
from math import prod
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.dimensions import Dim
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.ingress.codecs.kserve_rest import encode_metadata, encode_response
from deployments.tensors import Array, Tensor, bf16_to_float32
from tests.ingress.codecs.kserve_requests import LIMITS, parse_request, shapes

BINARY = {"binary_data_output": True}


def response(*tensors: Tensor, request_id: str | None = None) -> InferResponse:
    return InferResponse("finder", "3", tensors, request_id)


def encoded(*tensors: Tensor, request: InferRequest | None = None) -> tuple[Any, list[bytes]]:
    """The JSON of a response, and the binary data of those outputs that have some."""
    length, parts = encode_response(response(*tensors), request or InferRequest(()))
    body = b"".join(parts)
    message = orjson.loads(body[:length])
    sizes = [
        output["parameters"]["binary_data_size"]
        for output in message["outputs"]
        if "parameters" in output
    ]
    assert (length is None) == (not sizes)
    rest = body[length:] if length is not None else b""
    assert sum(sizes) == len(rest)
    starts = np.cumsum([0, *sizes])
    return message, [rest[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def floats(name: str, *shape: int) -> Tensor:
    return Tensor(name, "FP32", shape, np.arange(prod(shape), dtype=np.float32).reshape(shape))


def random_numbers(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> Array:
    dtype = NUMPY_DTYPES[datatype]
    count = prod(shape)
    if datatype == "BOOL":
        flat = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return np.array(flat, dtype).reshape(shape)
    nbytes = count * dtype.itemsize
    raw = data.draw(st.binary(min_size=nbytes, max_size=nbytes))
    return np.frombuffer(raw, dtype).reshape(shape)


# The JSON ---------------------------------------------------------------------------------------


def test_a_response_has_the_fields_of_the_specification() -> None:
    tensors = floats("boxes", 2, 3), Tensor("words", BYTES, (2,), [b"a", "ü".encode()])
    length, parts = encode_response(response(*tensors, request_id="42"), InferRequest(()))
    assert length is None
    assert {
        "model_name": "finder",
        "model_version": "3",
        "id": "42",
        "outputs": [
            {"name": "boxes", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]},
            {"name": "words", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]},
        ],
    } == orjson.loads(b"".join(parts))


def test_a_binary_response_has_the_fields_of_the_specification() -> None:
    tensors = floats("boxes", 1, 2), Tensor("words", BYTES, (2,), [b"a", b""])
    request = InferRequest((), parameters=BINARY)
    length, parts = encode_response(response(*tensors), request)
    body = b"".join(parts)
    assert {
        "model_name": "finder",
        "model_version": "3",
        "outputs": [
            {
                "name": "boxes",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            },
            {
                "name": "words",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"binary_data_size": 9},
            },
        ],
    } == orjson.loads(body[:length])
    assert struct.pack("<2f", 0, 1) + b"\1\0\0\0a\0\0\0\0" == body[length:]


def test_without_an_id_the_response_has_none() -> None:
    assert "id" not in encoded(floats("a", 1))[0]


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
@given(st.data())
def test_numbers_come_back_as_they_are_in_json_and_binary(
    datatype: str, data: st.DataObject
) -> None:
    shape = data.draw(shapes)
    array = random_numbers(data, datatype, shape)
    tensor = Tensor("a", datatype, shape, array)
    (in_json,) = encoded(tensor)[0]["outputs"]
    assert list(shape) == in_json["shape"]
    values: Any = bf16_to_float32(array) if datatype == BF16 else array
    expected = [value if np.isfinite(value) else None for value in values.reshape(-1).tolist()]
    # The shortest decimals of a narrow float are not those of the double that Python reads.
    narrow = [value if value is None else values.dtype.type(value) for value in in_json["data"]]
    assert expected == narrow

    message, (raw,) = encoded(tensor, request=InferRequest((), parameters=BINARY))
    assert "data" not in message["outputs"][0]
    assert array.tobytes() == raw


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_byte_strings_come_back_whole_in_binary_and_readable_in_json(items: list[bytes]) -> None:
    tensor = Tensor("a", BYTES, (len(items),), items)
    _, (raw,) = encoded(tensor, request=InferRequest((), parameters=BINARY))
    assert b"".join(struct.pack("<I", len(item)) + item for item in items) == raw
    (output,) = encoded(tensor)[0]["outputs"]
    assert [item.decode(errors="replace") for item in items] == output["data"]


@given(st.lists(st.sampled_from(sorted(NUMPY_DTYPES)), min_size=1, max_size=4), st.data())
def test_a_binary_response_can_be_sent_back_as_a_request(
    datatypes: list[str], data: st.DataObject
) -> None:
    tensors = []
    for n, datatype in enumerate(datatypes):
        shape = data.draw(shapes)
        array = random_numbers(data, datatype, shape)
        tensors.append(Tensor(f"port {n}", datatype, shape, array))
    length, parts = encode_response(response(*tensors), InferRequest((), parameters=BINARY))
    assert length is not None
    message = orjson.loads(parts[0][:length])
    head = orjson.dumps({"inputs": message["outputs"]})
    body = np.frombuffer(b"".join((head, *parts[1:])), np.uint8)
    for sent, back in zip(tensors, parse_request(body, len(head), LIMITS).tensors, strict=True):
        assert (sent.name, sent.datatype, sent.shape) == (back.name, back.datatype, back.shape)
        assert np.asarray(sent.data).tobytes() == np.asarray(back.data).tobytes()


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_long_integers_keep_every_digit_in_json(datatype: str) -> None:
    ends = np.iinfo(NUMPY_DTYPES[datatype])
    array = np.array([ends.min, ends.max, 2**53 + 1], NUMPY_DTYPES[datatype])
    _, parts = encode_response(response(Tensor("a", datatype, (3,), array)), InferRequest(()))
    written = f'"data":[{ends.min},{ends.max},9007199254740993]'
    assert written.encode() in b"".join(parts)


@pytest.mark.parametrize("datatype", ["FP16", BF16, "FP32", "FP64"])
def test_what_json_cannot_say_is_null(datatype: str) -> None:
    wide = np.array([np.nan, np.inf, -np.inf, 1.5])
    if datatype == BF16:
        array: Array = (wide.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        array = wide.astype(NUMPY_DTYPES[datatype])
    (output,) = encoded(Tensor("a", datatype, (4,), array))[0]["outputs"]
    assert [None, None, None, 1.5] == output["data"]


def test_data_is_row_major_whatever_the_memory_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensor = Tensor("a", "FP32", (3, 2), array)
    (output,) = encoded(tensor)[0]["outputs"]
    assert [0, 3, 1, 4, 2, 5] == output["data"]
    _, (raw,) = encoded(tensor, request=InferRequest((), parameters=BINARY))
    assert struct.pack("<6f", 0, 3, 1, 4, 2, 5) == raw


def test_a_row_of_a_batch_is_sent_alone() -> None:
    (output,) = encoded(floats("a", 4, 3).rows(1, 2))[0]["outputs"]
    assert ([1, 3], [3, 4, 5]) == (output["shape"], output["data"])


# What is binary ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_request", "wishes", "expected"),
    [
        ({}, {}, ""),
        ({}, {"a": {"binary_data": True}}, "a"),
        ({}, {"a": {"binary_data": True}, "b": {"binary_data": False}, "c": {}}, "a"),
        ({"binary_data_output": True}, {}, "abc"),
        ({"binary_data_output": True}, {"a": {}}, "abc"),
        ({"binary_data_output": True}, {"a": {"binary_data": False}}, "bc"),
        ({"binary_data_output": False}, {"b": {"binary_data": True}}, "b"),
        ({"binary_data_output": 1}, {}, ""),
        ({"binary_data_output": "true"}, {"a": {"binary_data": "yes"}}, ""),
    ],
)
def test_each_output_is_binary_as_itself_or_else_the_request_says(
    by_request: dict[str, Any], wishes: dict[str, Any], expected: str
) -> None:
    request = InferRequest((), outputs=wishes, parameters=by_request)
    message, raws = encoded(floats("a", 1), floats("b", 2), floats("c", 3), request=request)
    binary = [output["name"] for output in message["outputs"] if "data" not in output]
    assert list(expected) == binary
    assert [{"a": 4, "b": 8, "c": 12}[name] for name in binary] == [len(raw) for raw in raws]


def test_an_empty_output_can_be_the_only_binary_one() -> None:
    request = InferRequest((), outputs={"a": {"binary_data": True}})
    message, raws = encoded(floats("a", 0, 7), floats("b", 1), request=request)
    assert [b""] == raws
    assert {"binary_data_size": 0} == message["outputs"][0]["parameters"]


def test_a_response_without_outputs_is_json() -> None:
    message, raws = encoded(request=InferRequest((), parameters=BINARY))
    assert ([], []) == (message["outputs"], raws)


# Metadata ---------------------------------------------------------------------------------------


def test_metadata_has_the_fields_of_the_specification() -> None:
    batch, any_size = Dim(0, None), Dim(200, 500)
    info = ModelInfo(
        "finder",
        "3",
        ("1", "3"),
        (InputSpec("pixels", "FP32", (batch, Dim(3, 3), any_size)), InputSpec("s", BYTES, ())),
        (OutputSpec("boxes", "INT64", (Dim(1, 1), Dim(0, 0))),),
        64,
    )
    assert {
        "name": "finder",
        "versions": ["1", "3"],
        "platform": "openvino",
        "inputs": [
            {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, -1]},
            {"name": "s", "datatype": "BYTES", "shape": []},
        ],
        "outputs": [
            {
                "name": "boxes",
                "datatype": "INT64",
                "shape": [1, 0],
                "parameters": {"computed_in": "INT32"},
            }
        ],
    } == orjson.loads(encode_metadata(info))


def test_metadata_tells_the_layouts_that_are_known() -> None:
    inputs = (InputSpec("pixels", "UINT8", (), layout="NHWC"), InputSpec("s", BYTES, ()))
    outputs = (OutputSpec("boxes", "INT64", (), "CN"),)
    message = orjson.loads(encode_metadata(ModelInfo("m", "1", ("1",), inputs, outputs, 64)))
    told = [tensor.get("parameters") for tensor in message["inputs"] + message["outputs"]]
    assert [{"layout": "NHWC"}, None, {"layout": "CN", "computed_in": "INT32"}] == told


def test_a_remembered_json_part_is_taken_only_for_equal_outputs() -> None:
    asked = InferRequest((), parameters=BINARY)
    for tensors in ((floats("a", 2),), (floats("a", 3),), (floats("b", 2),), (floats("a", 2),)) * 2:
        message, data = encoded(*tensors, request=asked)
        told = [(output["name"], tuple(output["shape"])) for output in message["outputs"]]
        assert [(tensor.name, tensor.shape) for tensor in tensors] == told
        assert [tensor.nbytes for tensor in tensors] == [len(raw) for raw in data]
