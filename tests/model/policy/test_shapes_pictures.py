"""Which inputs take pictures."""

import pytest

from deployments.dimensions import parse_dims
from deployments.layouts import parse_layout_rule
from deployments.model.openvino.runtime import ModelInput
from deployments.model.policy.shapes import with_batch_axis


@pytest.mark.parametrize(
    ("rule", "datatype", "expected"),
    [
        ("(-1,3,-1,-1)", "FP32", "NCHW"),
        ("(-1,1,-1,-1)", "UINT8", "NCHW"),
        ("(-1,-1,-1,3)", "UINT8", "NHWC"),
        ("(4,300,300,1)", "FP16", "NHWC"),
        ("(-1,4,-1,-1)", "FP32", None),
        ("(-1,-1,-1,-1)", "FP32", None),
        ("(-1,3,-1)", "FP32", None),
        ("(-1,1:3,8,8)", "FP32", None),
        ("(-1,3,-1,-1)", "BYTES", None),
    ],
)
def test_pictures_are_inputs_of_four_dimensions_with_one_or_three_channels(
    rule: str, datatype: str, expected: str | None
) -> None:
    dims = parse_dims(rule)
    (spec,) = with_batch_axis([ModelInput("x", datatype, dims)], [dims], lambda _: True)
    assert expected == spec.pictures


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("NHWC", "NHWC"),
        ("N...", "NHWC"),
        ("N??C", "NHWC"),
        ("...C", "NHWC"),
        ("????", "NHWC"),
        ("NCHW", None),
        ("CHWN", None),
        ("NWHC", None),
        ("NDHC", None),
    ],
)
def test_pictures_are_where_the_layout_allows_them(layout: str, expected: str | None) -> None:
    dims = parse_dims("(-1,-1,-1,3)")
    own = parse_layout_rule(layout).target
    (spec,) = with_batch_axis([ModelInput("x", "FP32", dims, own)], [dims], lambda _: True)
    assert (expected, layout) == (spec.pictures, spec.layout)
