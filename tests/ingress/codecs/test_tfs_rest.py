"""TensorFlow Serving's REST API as its clients write it."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES
from deployments.dimensions import Dim
from deployments.errors import ServingError
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.ingress.codecs.tfs import VersionStatus
from deployments.ingress.codecs.tfs_rest import (
    encode_metadata,
    encode_response,
    encode_status,
    parse_request,
)
from deployments.settings import Limits
from deployments.tensors import Tensor
from tests.ingress.codecs.test_kserve_rest_fuzz import json_values
from tests.strategies import numeric_datatypes, tensors

OPEN = Dim(0, None)
PICTURES = InputSpec("picture", "FP32", (OPEN, Dim(3, 3), OPEN, OPEN), 0, "NCHW")
NUMBERS = InputSpec("numbers", "INT64", (OPEN, OPEN), 0)
WORDS = InputSpec("words", BYTES, (OPEN,), 0)
OUTPUTS = (OutputSpec("y", "FP32", (OPEN,)),)
ENCODED = {"b64": base64.b64encode(b"\xff\x00").decode()}


def info(*inputs: InputSpec) -> ModelInfo:
    return ModelInfo("m", "2", ("2",), inputs, OUTPUTS, 8)


def parsed(message: Any, *inputs: InputSpec, **limits: Any) -> tuple[InferRequest, bool]:
    body = message if isinstance(message, bytes) else orjson.dumps(message)
    return parse_request(np.frombuffer(body, np.uint8), info(*inputs), Limits(**limits))


def tensors_of(message: Any, *inputs: InputSpec) -> dict[str, Any]:
    request, _ = parsed(message, *inputs)
    return {
        t.name: (t.datatype, t.data if isinstance(t.data, list) else t.data.tolist())
        for t in request.tensors
    }


# Understood -------------------------------------------------------------------------------------

UNDERSTOOD = [
    ({"inputs": {"numbers": [[1, 2]]}}, [NUMBERS], {"numbers": ("INT64", [[1, 2]])}),
    ({"inputs": [[1, 2]]}, [NUMBERS], {"numbers": ("INT64", [[1, 2]])}),
    ({"instances": [[1, 2], [3, 4]]}, [NUMBERS], {"numbers": ("INT64", [[1, 2], [3, 4]])}),
    ({"instances": [{"numbers": [1]}]}, [NUMBERS], {"numbers": ("INT64", [[1]])}),
    (
        {"instances": [{"numbers": [1], "words": "a"}, {"numbers": [2], "words": ENCODED}]},
        [NUMBERS, WORDS],
        {"numbers": ("INT64", [[1], [2]]), "words": (BYTES, [b"a", b"\xff\x00"])},
    ),
    (
        {"inputs": {"words": ["ä", ENCODED]}},
        [WORDS],
        {"words": (BYTES, ["ä".encode(), b"\xff\x00"])},
    ),
    ({"instances": [ENCODED]}, [PICTURES], {"picture": (BYTES, [b"\xff\x00"])}),
    ({"inputs": {"picture": [ENCODED]}}, [PICTURES], {"picture": (BYTES, [b"\xff\x00"])}),
    (
        {"instances": [[[[1]], [[2]], [[0.5]]]], "signature_name": "serving_default"},
        [PICTURES],
        {"picture": ("FP32", [[[[1.0]], [[2.0]], [[0.5]]]])},
    ),
    ({"inputs": [], "signature_name": ""}, [WORDS], {"words": (BYTES, [])}),
]


@pytest.mark.parametrize(("message", "inputs", "expected"), UNDERSTOOD)
def test_rows_and_columns_are_read(
    message: Any, inputs: list[InputSpec], expected: dict[str, Any]
) -> None:
    assert expected == tensors_of(message, *inputs)
    assert ("instances" in message) == parsed(message, *inputs)[1]


def test_nested_lists_give_the_shape() -> None:
    request, _ = parsed({"inputs": [[], []]}, NUMBERS)
    assert (2, 0) == request.tensors[0].shape
    request, _ = parsed({"inputs": 5}, InputSpec("x", "INT8", ()))
    assert () == request.tensors[0].shape


# Refused ----------------------------------------------------------------------------------------

REFUSED = [
    (b"{", [NUMBERS], "invalid JSON"),
    ([], [NUMBERS], "the JSON is not an object"),
    ({}, [NUMBERS], "either 'instances' .* or 'inputs'"),
    ({"inputs": [[1]], "instances": [[1]]}, [NUMBERS], "either 'instances' .* or 'inputs'"),
    ({"instances": []}, [NUMBERS], "not a list of at least one"),
    ({"instances": {"numbers": 1}}, [NUMBERS], "not a list of at least one"),
    ({"instances": [{"numbers": [1]}, {"words": "a"}]}, [NUMBERS, WORDS], "instance 1 has other"),
    ({"inputs": [1]}, [NUMBERS, WORDS], "has the inputs numbers, words"),
    ({"inputs": {"x": [1]}}, [NUMBERS], "has no input 'x', its inputs are numbers"),
    ({"inputs": [[1], [2, 3]]}, [NUMBERS], "input 'numbers' are not of one length"),
    ({"inputs": [[1], 2]}, [NUMBERS], "input 'numbers' are not of one length"),
    ({"inputs": [1, [2]]}, [NUMBERS], "input 'numbers' are not of one length"),
    ({"inputs": [[1.5]]}, [NUMBERS], "not fit INT64: 1.5"),
    ({"inputs": [[None]]}, [NUMBERS], "not fit INT64: null"),
    ({"inputs": [[2**63]]}, [NUMBERS], "not fit INT64: 9223372036854775808"),
    ({"inputs": [1]}, [WORDS], "not a string"),
    ({"inputs": [{"b64": 1}]}, [WORDS], "not a string"),
    ({"inputs": [{"b64": "a", "x": 1}]}, [WORDS], "not a string"),
    ({"inputs": [{"b64": "a"}]}, [WORDS], "not base64"),
    ({"inputs": [{"b64": "ä==="}]}, [WORDS], "not base64"),
    ({"inputs": [[1]], "signature_name": [[1]]}, [NUMBERS], "signature_name is not a string"),
    ({"inputs": [[1]], "signature_name": "other"}, [NUMBERS], "signature_name is 'other'"),
    ({"inputs": [[[[[[[[[1]]]]]]]]]}, [NUMBERS], r"limits.rank \(8\)"),
]


@pytest.mark.parametrize(("message", "inputs", "why"), REFUSED)
def test_the_error_says_what_is_wrong(message: Any, inputs: list[InputSpec], why: str) -> None:
    with pytest.raises(ServingError, match=why) as refused:
        parsed(message, *inputs)
    assert refused.value.http_status in (400, 413)


def test_bodies_and_tensors_over_the_limits_are_refused() -> None:
    with pytest.raises(ServingError, match=r"exceeds limits.json_bytes \(8\)"):
        parsed({"inputs": [[1]]}, NUMBERS, json_bytes=8)
    with pytest.raises(ServingError, match=r"exceeds limits.elements \(2\)"):
        parsed({"inputs": [[1, 2, 3]]}, NUMBERS, elements=2)
    with pytest.raises(ServingError, match=r"exceeds limits.strings \(2\)"):
        parsed({"inputs": ["a", "b", "c"]}, WORDS, strings=2)
    with pytest.raises(ServingError, match=r"exceeds limits.inputs \(1\)"):
        parsed({"inputs": {"numbers": [[1]], "words": ["a"]}}, NUMBERS, WORDS, inputs=1)


def refused_or_understood(message: Any, spec: InputSpec) -> None:
    try:
        parsed(message, spec, elements=1000)
    except ServingError as refused:
        error = refused
    else:
        return
    assert error.http_status in (400, 413)
    assert orjson.dumps(error.message)  # it can be encoded


@given(json_values, st.sampled_from([NUMBERS, WORDS, PICTURES]), st.booleans())
def test_any_json_is_refused_or_understood(value: Any, spec: InputSpec, by_row: bool) -> None:
    refused_or_understood(value, spec)
    refused_or_understood({"instances" if by_row else "inputs": value}, spec)


# Answers ----------------------------------------------------------------------------------------


def answered(*outputs: Tensor, by_row: bool) -> Any:
    return orjson.loads(encode_response(InferResponse("m", "2", outputs), by_row))


def numbers(name: str, values: Any) -> Tensor:
    array = np.array(values, np.float32)
    return Tensor(name, "FP32", array.shape, array)


def test_a_single_output_comes_without_its_name() -> None:
    assert {"predictions": [[1.0], [2.0]]} == answered(numbers("y", [[1], [2]]), by_row=True)
    assert {"outputs": [[1.0], [2.0]]} == answered(numbers("y", [[1], [2]]), by_row=False)
    assert {"outputs": 3.0} == answered(numbers("y", 3), by_row=False)


def test_several_outputs_have_names_in_each_row_or_in_all() -> None:
    outputs = numbers("y", [[1, 2], [3, 4]]), Tensor("z", BYTES, (2,), [b"a", b"\xff"])
    encoded = {"b64": "/w=="}
    assert {"outputs": {"y": [[1.0, 2.0], [3.0, 4.0]], "z": ["a", encoded]}} == answered(
        *outputs, by_row=False
    )
    assert {
        "predictions": [{"y": [1.0, 2.0], "z": "a"}, {"y": [3.0, 4.0], "z": encoded}]
    } == answered(*outputs, by_row=True)


def test_rows_of_one_number_each_are_numbers() -> None:
    outputs = numbers("y", [1, 2]), Tensor("z", "BOOL", (2,), np.array([True, False]))
    expected = [{"y": 1.0, "z": True}, {"y": 2.0, "z": False}]
    assert {"predictions": expected} == answered(*outputs, by_row=True)


@pytest.mark.parametrize("other", [numbers("z", [[1]]), numbers("z", 1)])
def test_outputs_without_a_row_for_each_instance_cannot_be_given_by_row(other: Tensor) -> None:
    with pytest.raises(ServingError, match=r"different numbers of rows \(y 2, z [01]\)"):
        answered(numbers("y", [[1], [2]]), other, by_row=True)


@given(tensors(numeric_datatypes), st.booleans())
def test_every_tensor_can_be_written(tensor: Tensor, by_row: bool) -> None:
    (value,) = answered(tensor, by_row=by_row).values()
    for axis, size in enumerate(tensor.shape):
        assert size == len(value), axis
        if not size:
            break
        value = value[-1]
    else:
        assert value is None or isinstance(value, int | float)


def test_statuses() -> None:
    statuses = [VersionStatus(2, "AVAILABLE"), VersionStatus(0, "END", "UNAVAILABLE", "gone")]
    assert encode_status(statuses) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {
                "version": "0",
                "state": "END",
                "status": {"error_code": "UNAVAILABLE", "error_message": "gone"},
            },
        ]
    }


def test_metadata_has_tensorflows_names_and_minus_one_for_open_dimensions() -> None:
    metadata = encode_metadata(info(PICTURES))
    assert "2" == metadata["modelSpec"]["version"]
    definition = metadata["metadata"]["signature_def"]["signatureDef"]["serving_default"]
    described = definition["inputs"]["picture"]
    assert "DT_FLOAT" == described["dtype"]
    assert ["-1", "3", "-1", "-1"] == [dim["size"] for dim in described["tensorShape"]["dim"]]
    assert ["y"] == list(definition["outputs"])
