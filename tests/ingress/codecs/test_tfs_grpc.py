"""TensorFlow Serving's messages as its clients write them."""

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BF16, BYTES, DATATYPES
from deployments.dimensions import Dim
from deployments.errors import ServingError
from deployments.inference import InferRequest, InferResponse, InputSpec, ModelInfo, OutputSpec
from deployments.ingress.codecs.tfs import VersionStatus
from deployments.ingress.codecs.tfs_grpc import (
    encode_metadata,
    encode_response,
    encode_status,
    parse_request,
    read_request,
    version_and_label,
)
from deployments.ingress.protos import tensorflow_serving_pb2 as pb
from deployments.settings import Limits
from deployments.tensors import Tensor, to_bytes
from tests.strategies import contents, numeric_datatypes, tensors

TYPED: dict[str, tuple[str, list[Any]]] = {
    "FP32": ("float_val", [0.5, float("inf")]),
    "FP64": ("double_val", [1e300, -0.0]),
    "INT32": ("int_val", [-(2**31), 2**31 - 1]),
    "INT16": ("int_val", [-(2**15), 2**15 - 1]),
    "INT8": ("int_val", [-128, 127]),
    "UINT16": ("int_val", [0, 2**16 - 1]),
    "UINT8": ("int_val", [0, 255]),
    "BYTES": ("string_val", [b"", b"\xff\x00"]),
    "INT64": ("int64_val", [-(2**63), 2**63 - 1]),
    "BOOL": ("bool_val", [True, False]),
    "UINT32": ("uint32_val", [0, 2**32 - 1]),
    "UINT64": ("uint64_val", [0, 2**64 - 1]),
}


def shaped(*sizes: int) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def proto(datatype: str, *sizes: int, **values: Any) -> pb.TensorProto:
    dtype = DATATYPES[datatype].tensorflow
    return pb.TensorProto(dtype=dtype, tensor_shape=shaped(*sizes), **values)


def of_type(number: Any) -> pb.TensorProto:
    return pb.TensorProto(dtype=number, tensor_shape=shaped(1))


def parsed(limits: Limits | None = None, /, **inputs: pb.TensorProto) -> InferRequest:
    message = pb.PredictRequest(inputs=inputs)
    bounds = limits or Limits()
    return parse_request(read_request(message.SerializeToString(), bounds), bounds)


def only(tensor: pb.TensorProto) -> Tensor:
    (understood,) = parsed(x=tensor).tensors
    return understood


def values(tensor: Tensor) -> list[Any]:
    return tensor.data if isinstance(tensor.data, list) else tensor.data.ravel().tolist()


def test_every_datatype_has_a_name_and_a_place_for_its_values() -> None:
    assert {*TYPED, "FP16", BF16} == DATATYPES.keys()


# Understood -------------------------------------------------------------------------------------


@given(tensors(numeric_datatypes))
def test_tensor_content_is_read_bit_by_bit(given: Tensor) -> None:
    raw = bytes(to_bytes(given))
    understood = only(proto(given.datatype, *given.shape, tensor_content=raw))
    assert contents(given)[1:] == contents(understood)[1:]


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_values_are_read(datatype: str) -> None:
    field, given = TYPED[datatype]
    tensor = only(proto(datatype, 2, 1, **{field: given}))
    assert (datatype, (2, 1)) == (tensor.datatype, tensor.shape)
    assert given == values(tensor)


@pytest.mark.parametrize("datatype", TYPED)
def test_the_last_value_stands_for_those_that_are_left_out(datatype: str) -> None:
    field, (first, second) = TYPED[datatype]
    assert [first, second, second, second] == values(
        only(proto(datatype, 2, 2, **{field: [first, second]}))
    )


@pytest.mark.parametrize("datatype", ["FP16", BF16])
def test_the_bits_of_half_floats_are_read(datatype: str) -> None:
    one = {"FP16": 0x3C00, BF16: 0x3F80}[datatype]
    tensor = only(proto(datatype, 2, half_val=[one, 0x8000]))
    assert np.array([one, 0x8000], np.uint16).tobytes() == bytes(to_bytes(tensor))


def test_a_tensor_without_elements_needs_no_values() -> None:
    assert (0, 3) == only(proto("FP32", 0, 3)).shape
    assert [] == only(proto("BYTES", 0)).data


def test_the_output_filter_is_read() -> None:
    message = pb.PredictRequest(output_filter=["b", "a"])
    assert ["b", "a"] == list(parse_request(message, Limits()).outputs)


def test_version_label_or_neither() -> None:
    spec = pb.ModelSpec(name="m")
    assert (None, None) == version_and_label(spec)
    spec.version.value = 0
    assert (None, None) == version_and_label(spec)
    spec.version.value = 3
    assert ("3", None) == version_and_label(spec)
    spec.version_label = "stable"
    assert (None, "stable") == version_and_label(spec)


# Refused ----------------------------------------------------------------------------------------

REFUSED = [
    (pb.TensorProto(tensor_shape=shaped(1)), "unknown datatype 'number 0'"),
    (of_type(8), "unknown datatype 'number 8'"),
    (
        pb.TensorProto(dtype="DT_FLOAT", tensor_shape=pb.TensorShapeProto(unknown_rank=True)),
        "a shape of unknown rank",
    ),
    (proto("FP32", 2), r"has 0 values, its shape \[2\] needs 2"),
    (proto("FP32", 2, float_val=[1, 2, 3]), r"has 3 values, its shape \[2\] needs 2"),
    (proto("FP32", 2, double_val=[1, 2]), r"has 0 values, its shape \[2\] needs 2"),
    (proto("FP32", 2, tensor_content=b"1234"), r"has 4 bytes, its shape \[2\] needs 8"),
    (proto("FP32", -1, float_val=[1]), "not a list of integers >= 0"),
    (proto("FP32", *[1] * 9, float_val=[1]), "exceeds limits.rank"),
    (proto("FP32", 2**40, 2**40, float_val=[1]), "exceeds limits.elements"),
    (proto("BYTES", 2**21, string_val=[b"a"]), "exceeds limits.strings"),
    (proto("INT8", 1, int_val=[128]), "has a value that does not fit INT8: 128"),
    (proto("FP16", 1, half_val=[-1]), "has a value that does not fit UINT16: -1"),
]


@pytest.mark.parametrize(("tensor", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_the_error_says_what_is_wrong(tensor: pb.TensorProto, why: str) -> None:
    with pytest.raises(ServingError, match=why) as refused:
        only(tensor)
    assert refused.value.grpc_code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


def test_signatures_filters_and_inputs_that_cannot_be() -> None:
    with pytest.raises(ServingError, match="signature_name is 'other'"):
        parse_request(pb.PredictRequest(model_spec={"signature_name": "other"}), Limits())
    with pytest.raises(ServingError, match="output 'y' more than once"):
        parse_request(pb.PredictRequest(output_filter=["y", "y"]), Limits())
    with pytest.raises(ServingError, match=r"limits.inputs \(1\)"):
        parsed(Limits(inputs=1), x=proto("FP32", 0), y=proto("FP32", 0))


@pytest.mark.parametrize(
    ("tensor", "nbytes"),
    [
        (proto("FP32", 2**28, float_val=[1]), 2**30),
        (proto("INT8", 2**28, 2, int_val=[1]), 2**29),
        (proto("BYTES", 2**12, string_val=[bytes(2**18)]), 2**30),
    ],
)
def test_a_value_does_not_stand_for_more_than_a_body_may_have(
    tensor: pb.TensorProto, nbytes: int
) -> None:
    with pytest.raises(ServingError, match=f"of {nbytes} exceeds limits.body_bytes") as refused:
        parsed(Limits(elements=2**30), x=tensor)
    assert "RESOURCE_EXHAUSTED" == refused.value.grpc_code


def test_nor_do_the_values_of_all_inputs() -> None:
    inputs = {f"x{n}": proto("FP32", 100, float_val=[1]) for n in range(3)}
    assert 3 == len(parsed(Limits(body_bytes=1200), **inputs).tensors)
    with pytest.raises(ServingError, match=r"exceeds limits.body_bytes \(1199\)"):
        parsed(Limits(body_bytes=1199), **inputs)


def test_what_is_neither_content_nor_string_is_bounded_as_json_is() -> None:
    bounds = Limits(json_bytes=1000)
    content, strings = bytes(4 * 500), [bytes(100)] * 20
    assert parsed(bounds, x=proto("FP32", 500, tensor_content=content)).tensors
    assert parsed(bounds, x=proto("BYTES", 20, string_val=strings)).tensors
    with pytest.raises(ServingError, match=r"of 2\d\d\d exceeds limits.json_bytes \(1000\)"):
        parsed(bounds, x=proto("FP32", 500, float_val=[1] * 500))


protos = st.builds(
    pb.TensorProto,
    dtype=st.integers(0, 30),
    tensor_shape=st.lists(st.integers(-2, 5) | st.integers(-(2**63), 2**63 - 1), max_size=4).map(
        lambda sizes: shaped(*sizes)
    ),
    tensor_content=st.binary(max_size=16),
    float_val=st.lists(st.floats(width=32), max_size=3),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    half_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    string_val=st.lists(st.binary(max_size=3), max_size=3),
)


@given(protos)
def test_any_tensor_is_refused_or_understood(tensor: pb.TensorProto) -> None:
    try:
        (understood,) = parsed(Limits(elements=1000), x=tensor).tensors
    except ServingError as refused:
        error = refused
    else:
        assert prod(understood.shape) == len(values(understood))
        return
    assert error.grpc_code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


# Answers ----------------------------------------------------------------------------------------


@given(st.lists(tensors(), max_size=3, unique_by=lambda tensor: tensor.name))
def test_outputs_are_written_as_they_are_read(given: list[Tensor]) -> None:
    encoded = encode_response(InferResponse("m", "3", tuple(given)))
    message = pb.PredictResponse.FromString(encoded.SerializeToString())
    spec = message.model_spec
    assert ("m", 3, "serving_default") == (spec.name, spec.version.value, spec.signature_name)
    understood = {tensor.name: tensor for tensor in parsed(**message.outputs).tensors}
    assert {t.name: contents(t) for t in given} == {
        name: contents(tensor) for name, tensor in understood.items()
    }


def test_metadata_is_the_signature() -> None:
    inputs = (InputSpec("x", "FP32", (Dim(0, None), Dim(3, 3))),)
    info = ModelInfo("m", "2", ("2",), inputs, (OutputSpec("y", BYTES, ()),), 8)
    message = encode_metadata(info, ["signature_def"])
    assert ("m", 2) == (message.model_spec.name, message.model_spec.version.value)
    packed = message.metadata["signature_def"]
    assert "type.googleapis.com/tensorflow.serving.SignatureDefMap" == packed.type_url
    signature = pb.SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    x, y = signature.inputs["x"], signature.outputs["y"]
    assert (pb.DataType.DT_FLOAT, [-1, 3]) == (x.dtype, [d.size for d in x.tensor_shape.dim])
    assert (pb.DataType.DT_STRING, []) == (y.dtype, list(y.tensor_shape.dim))


@pytest.mark.parametrize("fields", [[], ["other"], ["signature_def", "other"]])
def test_other_metadata_is_not_there(fields: list[str]) -> None:
    with pytest.raises(ServingError, match="there is only 'signature_def'"):
        encode_metadata(ModelInfo("m", "2", ("2",), (), (), 8), fields)


def test_statuses() -> None:
    statuses = [VersionStatus(2, "AVAILABLE"), VersionStatus(0, "END", "UNAVAILABLE", "gone")]
    first, second = encode_status(statuses).model_version_status
    assert (2, pb.ModelVersionStatus.AVAILABLE, 0) == (
        first.version,
        first.state,
        first.status.error_code,
    )
    assert (0, pb.ModelVersionStatus.END, 14, "gone") == (
        second.version,
        second.state,
        second.status.error_code,
        second.status.error_message,
    )
