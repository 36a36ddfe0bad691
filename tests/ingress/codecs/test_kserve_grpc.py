"""Messages of the Open Inference Protocol over gRPC as clients write them."""

import subprocess
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES
from deployments.dimensions import Dim
from deployments.errors import ServingError
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.ingress.codecs.kserve_grpc import (
    encode_config,
    encode_metadata,
    encode_response,
    parse_request,
    read_request,
)
from deployments.ingress.codecs.protobuf_fields import fields
from deployments.ingress.protos import kserve_v2_pb2 as pb
from deployments.settings import Limits
from deployments.tensors import Array, Tensor, to_bytes
from tests.strategies import contents, tensors

LIMITS = Limits()
TYPED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [0.5, float("-inf")]),
    "FP64": ("fp64_contents", [1e300, -0.0]),
    "BYTES": ("bytes_contents", [b"", b"\xff\x00"]),
}


def raw(*given: Tensor, **fields: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(**fields)
    for tensor in given:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(to_bytes(tensor)))
    return message


def typed(datatype: str, shape: Any, **values: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest()
    entry = message.inputs.add(name="x", datatype=datatype, shape=shape)
    entry.contents.CopyFrom(pb.InferTensorContents(**values))
    return message


def numbers(*values: float) -> Tensor:
    return Tensor("x", "FP32", (len(values),), np.array(values, np.float32))


def parsed(message: pb.ModelInferRequest, **limits: Any) -> InferRequest:
    bounds = Limits(**limits)
    return parse_request(*read_request(message.SerializeToString(), bounds), bounds, memory)


def memory(nbytes: int) -> Array:
    return np.empty(nbytes, np.uint8)


# Understood -------------------------------------------------------------------------------------


@given(st.lists(tensors(), max_size=3))
def test_raw_tensors_are_read_bit_by_bit(given: list[Tensor]) -> None:
    understood = parsed(raw(*given)).tensors
    assert list(map(contents, given)) == list(map(contents, understood))


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_read(datatype: str) -> None:
    field, values = TYPED[datatype]
    (tensor,) = parsed(typed(datatype, [2, 1], **{field: values})).tensors
    assert ("x", datatype, (2, 1)) == (tensor.name, tensor.datatype, tensor.shape)
    data = tensor.data if isinstance(tensor.data, list) else tensor.data.ravel().tolist()
    assert values == data


@pytest.mark.parametrize("datatype", TYPED)
def test_no_values_are_a_tensor_without_elements(datatype: str) -> None:
    (tensor,) = parsed(typed(datatype, [0, 3])).tensors
    assert (0, 3) == tensor.shape
    assert 0 == len(tensor.data)


@given(st.lists(tensors(), max_size=3), st.binary(max_size=30), st.integers(0, 4))
def test_a_message_is_read_as_protobuf_reads_it(
    given: list[Tensor], noise: bytes, split: int
) -> None:
    message = raw(*given, id="a", model_name="m").SerializeToString()
    for content in (message, message[: len(message) // 2], message + noise, noise):
        try:
            expected = pb.ModelInferRequest.FromString(content)
        except DecodeError:
            with pytest.raises(DecodeError):
                read_request(content, LIMITS)
            continue
        with patch("deployments.ingress.codecs.kserve_grpc.fields", partial(fields, most=split)):
            request, contents = read_request(content, LIMITS)
        assert list(expected.raw_input_contents) == list(map(bytes, contents))
        request.raw_input_contents[:] = expected.raw_input_contents
        assert expected == request


def test_a_single_picture_needs_no_length() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\xff\xd8\xff jpeg"])
    message.inputs.add(name="x", datatype=BYTES, shape=[1])
    assert [b"\xff\xd8\xff jpeg"] == parsed(message).tensors[0].data


def test_id_outputs_and_parameters_are_read() -> None:
    message = raw(numbers(1), id="a7")
    message.parameters["timeout"].int64_param = 5
    message.parameters["priority"].uint64_param = 2**64 - 1
    message.parameters["nothing"].SetInParent()
    message.inputs[0].parameters["height"].string_param = "8"
    message.outputs.add(name="b").parameters["scale"].double_param = 0.5
    message.outputs.add(name="a").parameters["last"].bool_param = True
    request = parsed(message)
    assert "a7" == request.id
    assert {"timeout": 5, "priority": 2**64 - 1, "nothing": None} == request.parameters
    assert {"x": {"height": "8"}} == request.input_parameters
    assert [("b", {"scale": 0.5}), ("a", {"last": True})] == list(request.outputs.items())


def test_omitted_fields_have_no_value() -> None:
    request = parsed(raw(numbers(1)))
    assert request.id is None
    assert not request.outputs
    assert not request.parameters


# Refused ----------------------------------------------------------------------------------------


def both() -> pb.ModelInferRequest:
    message = typed("FP32", [1], fp32_contents=[1.0])
    message.raw_input_contents.append(bytes(4))
    return message


def one_output_twice() -> pb.ModelInferRequest:
    message = raw(numbers(1))
    message.outputs.add(name="y")
    message.outputs.add(name="y")
    return message


REFUSED = [
    (raw(numbers(1), raw_input_contents=[b"1234"]), "2 raw_input_contents for 1 inputs"),
    (both(), "input 'x' has both contents and raw_input_contents"),
    (typed("FP32", [1], int_contents=[1]), "is FP32 and has int_contents, not fp32_contents"),
    (typed("FP16", [1], fp32_contents=[1]), "is FP16, which travels in raw_input_contents only"),
    (typed("BF16", [1]), "is BF16, which travels in raw_input_contents only"),
    (typed("FP32", [3], fp32_contents=[1, 2]), r"has 2 values, its shape \[3\] needs 3"),
    (typed("FP32", [3]), r"has 0 values, its shape \[3\] needs 3"),
    (typed("INT8", [1], int_contents=[128]), "has a value that does not fit INT8: 128"),
    (typed("UINT8", [1], uint_contents=[256]), "has a value that does not fit UINT8: 256"),
    (typed("FP31", [1], fp32_contents=[1]), "unknown datatype 'FP31'"),
    (typed("FP32", [-1], fp32_contents=[1]), "not a list of integers >= 0"),
    (typed("FP32", [2**40, 2**40]), "exceeds limits.elements"),
    (typed("BYTES", [2**21]), "exceeds limits.strings"),
    (typed("FP32", [1] * 9, fp32_contents=[1]), "exceeds limits.rank"),
    (raw(Tensor("x", "FP32", (2,), np.zeros(1, np.float32))), r"has 4 bytes.* needs 8"),
    (one_output_twice(), "names output 'y' more than once"),
]


@pytest.mark.parametrize(("message", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_the_error_says_what_is_wrong(message: pb.ModelInferRequest, why: str) -> None:
    with pytest.raises(ServingError, match=why) as refused:
        parsed(message)
    assert refused.value.grpc_code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


def test_large_numbers_are_copied_once_to_where_models_can_map_them() -> None:
    asked: list[int] = []

    def space(nbytes: int) -> Array:
        asked.append(nbytes)
        return memory(nbytes)

    large = Tensor("x", "FP32", (100, 100), np.arange(10_000, dtype=np.float32).reshape(100, 100))
    message = raw(large, Tensor("s", BYTES, (1,), [bytes(50_000)]), numbers(1.0))
    content = message.SerializeToString()
    request = parse_request(*read_request(content, LIMITS), LIMITS, space)
    assert [40_000] == asked
    assert contents(large) == contents(request.tensors[0])


def test_what_is_not_raw_is_bounded_as_json_is() -> None:
    message = typed("FP32", [100], fp32_contents=[1.0] * 100)
    assert parsed(message, json_bytes=500).tensors
    with pytest.raises(ServingError, match=r"without its raw_input_contents of 4\d\d exceeds"):
        parsed(message, json_bytes=400)
    assert parsed(raw(numbers(*[1.0] * 500)), json_bytes=400).tensors


def test_more_inputs_than_the_limit_are_refused() -> None:
    message = raw(*(Tensor(str(n), BYTES, (0,), []) for n in range(3)))
    assert 3 == len(parsed(message, inputs=3).tensors)
    with pytest.raises(ServingError, match=r"number of inputs of 3 exceeds limits.inputs \(2\)"):
        parsed(message, inputs=2)


messages = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=st.sampled_from(["x", "y"]),
            datatype=st.sampled_from([*TYPED, "FP16", "BF16", "", "fp32"]),
            shape=st.lists(st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1), max_size=4),
            contents=st.builds(
                pb.InferTensorContents,
                fp32_contents=st.lists(st.floats(width=32), max_size=3),
                int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
                bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
            ),
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.binary(max_size=20), max_size=3),
)


@given(messages)
def test_any_message_is_refused_or_understood(message: pb.ModelInferRequest) -> None:
    try:
        request = parsed(message, elements=1000)
    except ServingError as refused:
        error = refused
    else:
        assert len(message.inputs) == len(request.tensors)
        return
    assert error.grpc_code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


# Answers ----------------------------------------------------------------------------------------


@given(st.lists(tensors(), max_size=3))
def test_outputs_are_written_bit_by_bit(given: list[Tensor]) -> None:
    encoded = encode_response(InferResponse("m", "3", tuple(given), "a7"))
    message = pb.ModelInferResponse.FromString(encoded.SerializeToString())
    assert ("m", "3", "a7") == (message.model_name, message.model_version, message.id)
    assert [bytes(to_bytes(tensor)) for tensor in given] == list(message.raw_output_contents)
    assert [(t.name, t.datatype, t.shape) for t in given] == [
        (output.name, output.datatype, tuple(output.shape)) for output in message.outputs
    ]


def test_metadata_has_minus_one_for_open_dimensions() -> None:
    inputs = (InputSpec("x", "FP32", (Dim(0, None), Dim(3, 3), Dim(2, 8))),)
    outputs = (OutputSpec("y", "BYTES", ()),)
    message = encode_metadata(ModelInfo("m", "2", ("1", "2"), inputs, outputs, 8))
    assert ("m", ["1", "2"], "openvino") == (message.name, [*message.versions], message.platform)
    (x,), (y,) = message.inputs, message.outputs
    assert ("x", "FP32", [-1, 3, -1]) == (x.name, x.datatype, [*x.shape])
    assert ("y", "BYTES", []) == (y.name, y.datatype, [*y.shape])


def test_the_configuration_is_the_metadata_in_tritons_words() -> None:
    inputs = (InputSpec("x", "FP32", (Dim(0, None), Dim(3, 3))), InputSpec("s", "BYTES", ()))
    outputs = (OutputSpec("y", "BF16", (Dim(1, 1),)),)
    config = encode_config(ModelInfo("m", "2", ("2",), inputs, outputs, 8)).config
    assert ("m", "openvino", 0) == (config.name, config.platform, config.max_batch_size)
    described = [(t.name, pb.DataType.Name(t.data_type), list(t.dims)) for t in config.input]
    assert [("x", "TYPE_FP32", [-1, 3]), ("s", "TYPE_STRING", [])] == described
    assert ("y", "TYPE_BF16", 1) == (
        config.output[0].name,
        pb.DataType.Name(config.output[0].data_type),
        config.output[0].dims[0],
    )


# The wire ---------------------------------------------------------------------------------------

FIELDS = """
def described(message):
    for field in message.fields:
        yield f"{message.full_name} {field.number} {field.name} {field.type} {field.is_repeated}"
    for nested in message.nested_types:
        yield from described(nested)

def lines(file):
    for message in file.message_types_by_name.values():
        yield from described(message)
    for service in file.services_by_name.values():
        for method in service.methods:
            yield f"{service.full_name} {method.name} {method.input_type.full_name} " + (
                f"{method.output_type.full_name} {method.client_streaming}"
            )

print("\\n".join(lines(DESCRIPTOR)))
"""


def lines_of(module: str) -> set[str]:
    """Both modules define the same messages, so each needs its own process."""
    script = f"from {module} import DESCRIPTOR\n{FIELDS}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines())


def test_messages_and_methods_are_those_of_tritons_clients() -> None:
    pytest.importorskip("tritonclient.utils")
    ours = lines_of("deployments.ingress.protos.kserve_v2_pb2")
    theirs = lines_of("tritonclient.grpc.service_pb2")
    theirs |= lines_of("tritonclient.grpc.model_config_pb2")
    assert len(ours) > 50
    assert not ours - theirs
