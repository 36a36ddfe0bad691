"""Requests as a whole: their fields, their two parts, their limits."""

from typing import Any

import numpy as np
import orjson
import pytest

from deployments.datatypes import DATATYPES
from deployments.errors import (
    DuplicateName,
    InvalidShape,
    LimitExceeded,
    MalformedBody,
    UnknownDatatype,
)
from deployments.settings import Limits
from tests.ingress.codecs.kserve_requests import (
    LIMITS,
    entry,
    numbers,
    parse_request,
    parsed,
    parsed_input,
)

X = entry("x", "UINT8", (2,), data=[1, 2])
NOT_OBJECTS: list[Any] = [[], [1], 0, 1, False, True, "", "text"]


# Fields -----------------------------------------------------------------------------------------


def test_a_whole_request_is_understood() -> None:
    request = parsed(
        {
            "id": "42",
            "parameters": {"binary_data_output": True, "timeout": 5},
            "inputs": [
                X,
                entry("y", "FP32", (1, 1), data=[[0.5]], parameters={"height": 300}),
            ],
            "outputs": [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
        }
    )
    assert "42" == request.id
    assert {"binary_data_output": True, "timeout": 5} == request.parameters
    assert ["x", "y"] == [tensor.name for tensor in request.tensors]
    assert {"x": {}, "y": {"height": 300}} == request.input_parameters
    assert [("b", {"binary_data": False}), ("a", {})] == list(request.outputs.items())


def test_what_a_request_leaves_out_is_empty() -> None:
    request = parsed({"inputs": [X]})
    assert (None, {}, {}) == (request.id, request.outputs, request.parameters)


def test_unknown_fields_are_ignored_everywhere() -> None:
    given = {**X, "colour": "red", "parameters": {"unheard": 1}}
    request = parsed({"inputs": [given], "outputs": [{"name": "a", "size": 3}], "model": [1, {}]})
    assert [1, 2] == numbers(request.tensors[0]).tolist()


@pytest.mark.parametrize("field", ["id", "parameters", "outputs"])
def test_null_is_as_good_as_nothing(field: str) -> None:
    request = parsed({"inputs": [{**X, "parameters": None}], field: None})
    assert (None, {}, {}) == (request.id, request.outputs, request.parameters)
    assert {"x": {}} == request.input_parameters


def test_a_request_may_have_no_inputs() -> None:
    assert () == parsed({"inputs": []}).tensors


def test_of_a_field_written_twice_the_last_counts() -> None:
    assert "b" == parsed(b'{"id": "a", "inputs": [], "id": "b"}').id


@pytest.mark.parametrize("inputs", [None, {}, "x", 1, [1], [None], [[]], [X, "x"]])
def test_inputs_are_a_list_of_objects(inputs: Any) -> None:
    with pytest.raises(MalformedBody, match="'inputs' is not a list of objects"):
        parsed({"inputs": inputs})


def test_inputs_are_required() -> None:
    with pytest.raises(MalformedBody, match="'inputs' is not a list of objects"):
        parsed({})


@pytest.mark.parametrize("outputs", [{}, "x", 1, False, [1], [None]])
def test_outputs_are_a_list_of_objects(outputs: Any) -> None:
    with pytest.raises(MalformedBody, match="'outputs' is not a list of objects"):
        parsed({"inputs": [X], "outputs": outputs})


@pytest.mark.parametrize("field", ["inputs", "outputs"])
@pytest.mark.parametrize("name", [None, 1, ["x"], {}])
def test_names_are_strings(field: str, name: Any) -> None:
    with pytest.raises(MalformedBody, match=f"an entry of '{field}' has no name"):
        parsed({"inputs": [X], field: [{**X, "name": name}]})


@pytest.mark.parametrize("parameters", NOT_OBJECTS)
def test_parameters_are_objects(parameters: Any) -> None:
    for message in (
        {"inputs": [X], "parameters": parameters},
        {"inputs": [{**X, "parameters": parameters}]},
        {"inputs": [X], "outputs": [{"name": "a", "parameters": parameters}]},
    ):
        with pytest.raises(MalformedBody, match="'parameters' is not an object"):
            parsed(message)


@pytest.mark.parametrize("name", [1, True, ["a"], {}])
def test_the_id_is_a_string(name: Any) -> None:
    with pytest.raises(MalformedBody, match="'id' is not a string"):
        parsed({"inputs": [X], "id": name})


def test_an_output_named_twice_is_refused() -> None:
    with pytest.raises(DuplicateName, match="names output 'a' more than once"):
        parsed({"inputs": [X], "outputs": [{"name": "a"}, {"name": "b"}, {"name": "a"}]})


def test_inputs_named_twice_both_arrive_for_the_model_to_refuse() -> None:
    assert ["x", "x"] == [tensor.name for tensor in parsed({"inputs": [X, X]}).tensors]


@pytest.mark.parametrize(
    "datatype", [None, "fp32", "FLOAT", "", 1, True, ["FP32"], {"FP32": 1}, "X" * 9999]
)
def test_an_unknown_datatype_is_refused_and_shown(datatype: Any) -> None:
    with pytest.raises(UnknownDatatype) as caught:
        parsed_input({**X, "datatype": datatype})
    assert f"input 'x' has unknown datatype '{str(datatype)[:40]}'" == caught.value.message


@pytest.mark.parametrize(
    "shape",
    [None, 2, "2", {}, {"0": 2}, [-2], [2, -1], [True], [2.0], ["2"], [None], [[2]], [1e30]],
)
def test_a_shape_is_a_list_of_natural_numbers(shape: Any) -> None:
    with pytest.raises(InvalidShape, match="not a list of integers >= 0"):
        parsed_input({**X, "shape": shape})


def test_a_missing_shape_is_refused() -> None:
    with pytest.raises(InvalidShape):
        parsed_input({"name": "x", "datatype": "UINT8", "data": [1]})


# The binary part --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, True, 1.0, 2.0, "2", [2], {}, -(2**63), "x" * 9999])
def test_a_binary_size_is_a_natural_number(size: Any) -> None:
    given = entry("x", "UINT8", (2,), parameters={"binary_data_size": size})
    with pytest.raises(MalformedBody, match=r"has binary_data_size .*, not an integer >= 0") as it:
        parsed_input(given, b"\1\2")
    assert len(it.value.message) < 150


@pytest.mark.parametrize("size", [3, 2**64 - 1])
def test_a_binary_size_beyond_the_body_is_refused(size: int) -> None:
    given = entry("x", "UINT8", (2,), parameters={"binary_data_size": size})
    with pytest.raises(MalformedBody, match=f"needs {size} bytes of binary data, 2 are left"):
        parsed_input(given, b"\1\2")


def test_data_both_in_json_and_binary_is_refused() -> None:
    with pytest.raises(MalformedBody, match="has both 'data' and 'binary_data_size'"):
        parsed_input({**X, "parameters": {"binary_data_size": 2}}, b"\1\2")


@pytest.mark.parametrize("binary", [(), (b"",)])
@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_an_input_without_any_data_is_refused(datatype: str, binary: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedBody, match="input 'x'"):
        parsed_input(entry("x", datatype, (2,)), *binary)


def test_strings_before_another_input_have_to_say_their_size() -> None:
    inputs = [entry("s", "BYTES"), entry("x", "UINT8")]
    with pytest.raises(MalformedBody, match="input 's' is BYTES and lacks binary_data_size"):
        parsed({"inputs": inputs}, b"\0\0\0\0", b"\1")


@pytest.mark.parametrize("inputs", [[X], [], [entry("y", "UINT8", (3,))]])
def test_binary_data_that_belongs_to_no_input_is_refused(inputs: list[Any]) -> None:
    with pytest.raises(MalformedBody, match=r"\d bytes of binary data belong to no input"):
        parsed({"inputs": inputs}, b"\1\2\3\4")


@pytest.mark.parametrize("difference", [-1, 1, 2])
def test_a_header_length_beside_the_end_of_the_json_is_refused(difference: int) -> None:
    head = orjson.dumps({"inputs": [entry("x", "UINT8", (2,))]})
    body = np.frombuffer(head + b"\1\2", np.uint8)
    with pytest.raises(MalformedBody):
        parse_request(body, len(head) + difference, LIMITS)


@pytest.mark.parametrize("length", [-1, 43, 10**18])
def test_a_header_length_outside_the_body_is_refused_with_both_lengths(length: int) -> None:
    body = np.zeros(42, np.uint8)
    with pytest.raises(MalformedBody, match=f"is {length}, the body has 42 bytes"):
        parse_request(body, length, LIMITS)


# JSON and limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}}",
        b'{"inputs":[],}',
        b"\xef\xbb\xbf{}",
        b'{"id": NaN}',
        b'{"id": "\xff"}',
        b'{"id": "\xed\xa0\x80"}',
        b'{"id": "\\ud800"}',
        b'{"id": "\n"}',
        b"[" * 2000 + b"]" * 2000,
    ],
)
def test_bytes_that_are_no_json_are_refused_with_the_place(text: bytes) -> None:
    with pytest.raises(MalformedBody, match=r"malformed request: invalid JSON, .* at byte \d+"):
        parsed(text)


@pytest.mark.parametrize("text", [b"null", b"[]", b"1", b'"text"', b'[{"inputs": []}]'])
def test_json_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedBody, match="the JSON is not an object"):
        parsed(text)


def test_the_message_nests_as_deep_as_the_limit_and_not_deeper() -> None:
    limits = Limits(json_depth=5)
    message: dict[str, Any] = {"inputs": [X], "more": {"a": [{"b": {}}]}}  # 5 levels
    assert "x" == parsed(message, limits=limits).tensors[0].name
    message["more"]["a"][0]["b"]["c"] = []
    with pytest.raises(LimitExceeded) as caught:
        parsed(message, limits=limits)
    assert "JSON depth of 6 exceeds limits.json_depth (5)" == caught.value.message


def test_tensor_data_nests_by_its_rank_not_by_the_depth_limit() -> None:
    given = entry("x", "UINT8", (1,) * 8, data=[[[[[[[[7]]]]]]]])
    assert 7 == numbers(parsed_input(given, limits=Limits(json_depth=4))).item()


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (Limits(inputs=1), "number of inputs of 2 exceeds limits.inputs (1)"),
        (Limits(rank=1), "rank of input 'y' of 2 exceeds limits.rank (1)"),
        (Limits(elements=3), "element count of input 'y' of 4 exceeds limits.elements (3)"),
    ],
)
def test_a_request_over_a_limit_gets_the_name_of_the_setting(
    limits: Limits, complaint: str
) -> None:
    message = {"inputs": [X, entry("y", "UINT8", (2, 2), data=[1, 2, 3, 4])]}
    assert 2 == len(parsed(message).tensors)
    with pytest.raises(LimitExceeded) as caught:
        parsed(message, limits=limits)
    assert complaint == caught.value.message


def test_the_json_part_is_bounded_to_the_byte_and_the_binary_part_is_not() -> None:
    head = orjson.dumps({"inputs": [entry("x", "UINT8", (500,))]})
    request = parsed(head, bytes(500), limits=Limits(json_bytes=len(head)))
    assert 500 == numbers(request.tensors[0]).size
    with pytest.raises(LimitExceeded) as caught:
        parsed(head, bytes(500), limits=Limits(json_bytes=len(head) - 1))
    expected = f"JSON part of {len(head)} exceeds limits.json_bytes ({len(head) - 1})"
    assert expected == caught.value.message


@pytest.mark.parametrize("shape", [[2**62, 2**62], [0, 2**64 - 1], [2**31] * 4 + [0]])
def test_shapes_beyond_all_memory_are_refused_even_beside_a_zero(shape: list[int]) -> None:
    with pytest.raises(LimitExceeded, match=r"limits.elements"):
        parsed_input(entry("x", "FP32", shape, data=[]))
