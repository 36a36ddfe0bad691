"""The names of each datatype, against the protocols and the runtime that have them."""

import numpy as np
import openvino as ov
import pytest

from deployments.datatypes import BYTES, COMPUTED_IN, DATATYPES, NUMPY_DTYPES, Datatype
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as tensorflow
from deployments.settings.preprocessing import PRECISIONS


@pytest.fixture(params=list(DATATYPES.values()), ids=list(DATATYPES))
def datatype(request: pytest.FixtureRequest) -> Datatype:
    found: Datatype = request.param
    return found


def test_openvino_has_the_type_in_the_same_size(datatype: Datatype) -> None:
    kind = getattr(ov.Type, datatype.openvino)
    if datatype.name != BYTES:
        assert kind.size == NUMPY_DTYPES[datatype.name].itemsize


def test_tensorflow_has_the_type_and_the_field_of_its_values(datatype: Datatype) -> None:
    assert datatype.tensorflow in tensorflow.DataType.keys()  # noqa: SIM118
    assert datatype.values in tensorflow.TensorProto.DESCRIPTOR.fields_by_name


def test_kserve_has_the_field_of_its_values_or_it_is_half_a_float(datatype: Datatype) -> None:
    fields = kserve.InferTensorContents.DESCRIPTOR.fields_by_name
    if datatype.contents is None:
        assert "half_val" == datatype.values
    else:
        assert datatype.contents in fields


def test_a_datatype_is_computed_in_one_of_half_its_size_or_of_its_size_with_a_sign() -> None:
    for wide, narrow in COMPUTED_IN.items():
        assert DATATYPES[wide].computed_in == narrow
        assert NUMPY_DTYPES[narrow].itemsize <= NUMPY_DTYPES[wide].itemsize


def test_the_graph_converts_all_numbers_but_truth_values() -> None:
    assert DATATYPES.keys() - {BYTES, "BOOL"} == set(PRECISIONS.values())


def test_numbers_are_little_endian() -> None:
    for dtype in NUMPY_DTYPES.values():
        assert dtype == dtype.newbyteorder("<")
        assert np.dtype(dtype.str) == dtype
