"""How the runtime reads, reshapes and compiles models."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from deployments.dimensions import Dim, parse_dims
from deployments.inference import OutputSpec
from deployments.model.openvino.runtime import CannotLoad, CannotReshape, ModelInput, Runtime
from tests.model import models
from tests.model.loading import tensor
from tests.model.models import DATATYPES

RUNTIME = Runtime("CPU", {})
ANY = Dim(0, None)


# What a model declares --------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", DATATYPES)
def test_inputs_and_outputs_are_declared_by_name_datatype_and_dimensions(datatype: str) -> None:
    model = models.add_one((-1, ov.Dimension(2, 8), 4, ov.Dimension(3, -1)), DATATYPES[datatype])
    dims = (ANY, Dim(2, 8), Dim(4, 4), Dim(3, None))
    assert (ModelInput("x", datatype, dims),) == RUNTIME.inputs(model)
    assert (OutputSpec("y", datatype, dims),) == RUNTIME.outputs(model)


def test_a_bound_that_no_tensor_reaches_is_no_bound() -> None:
    model = RUNTIME.reshaped(models.even_sizes(), [(ANY, 3, ANY, ANY)])
    (output,) = RUNTIME.outputs(model)
    assert (ANY, Dim(12, 12), Dim(1, None), Dim(1, None)) == output.dims


def test_of_several_names_the_shortest_is_used() -> None:
    model = models.add_one()
    model.input(0).set_names({"x:0", "x", "long_x"})
    assert ["x"] == [port.name for port in RUNTIME.inputs(model)]


def test_what_has_no_name_of_its_own_has_the_same_one_in_every_copy() -> None:
    x = ops.parameter([4], ov.Type.f32)
    halves = ops.split(x, 0, 2).outputs()
    model = ov.Model([ops.result(half) for half in halves], [x], "m")
    names = [port.name for port in RUNTIME.outputs(model)]
    assert 2 == len(set(names))
    outputs = RUNTIME.compile(RUNTIME.reshaped(model, [[8]])).infer([tensor(range(8))], names[::-1])
    assert [[4, 5, 6, 7], [0, 1, 2, 3]] == [np.asarray(y.data).tolist() for y in outputs]


def test_an_output_of_unknown_rank_has_one_open_dimension() -> None:
    x, shape = models.parameter([6]), models.parameter([-1], ov.Type.i64, "shape")
    model = models.model((ops.reshape(x, shape, special_zero=False), "y"), inputs=[x, shape])
    assert (ANY,) == RUNTIME.outputs(model)[0].dims


def test_models_that_cannot_be_served_are_refused_in_words() -> None:
    x, packed = ops.parameter(ov.PartialShape.dynamic(), name="x"), ops.parameter([2], ov.Type.u4)
    any_rank = ov.Model([ops.result(x)], [x], "m")
    with pytest.raises(CannotLoad, match=r"^input 'x' has no fixed number of dimensions$"):
        RUNTIME.inputs(any_rank)
    four_bits = ov.Model([ops.result(packed)], [packed], "m")
    four_bits.output(0).set_names({"y"})
    with pytest.raises(CannotLoad, match=r"^output 'y' has element type .*, which is not served$"):
        RUNTIME.outputs(four_bits)
    y = models.parameter([2], name="y")
    twice = ov.Model([ops.result(y), ops.result(y)], [y], "m")
    with pytest.raises(CannotLoad, match=r"^the model has two outputs named 'y'$"):
        RUNTIME.outputs(twice)


# Reading, reshaping, compiling ------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "secret" / "m.xml"
    path.parent.mkdir()
    ov.save_model(models.convolution(), path, compress_to_fp16=False)
    return path


def test_a_model_is_read_from_its_file(saved: Path) -> None:
    assert ["x"] == [port.name for port in RUNTIME.inputs(RUNTIME.read(saved))]


@pytest.mark.parametrize(
    "damage", ["half an xml", "an empty xml", "half a bin", "no bin", "no xml"]
)
def test_the_error_of_a_damaged_file_names_only_the_file(saved: Path, damage: str) -> None:
    weights = saved.with_suffix(".bin")
    damaged = saved if damage.endswith("xml") else weights
    content = b"" if "empty" in damage else damaged.read_bytes()
    damaged.unlink()
    if not damage.startswith("no"):
        damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(CannotLoad) as failure:
        RUNTIME.read(saved)
    assert "OpenVINO cannot read m.xml" == str(failure.value)


def test_the_built_in_model_is_read_by_its_name() -> None:
    assert ["data"] == [port.name for port in RUNTIME.inputs(RUNTIME.read("builtin:spots"))]


def test_reshaping_leaves_the_model_as_it_was() -> None:
    model = models.convolution()
    reshaped = RUNTIME.reshaped(model, [parse_dims("(-1,3,9:12,20)")])
    assert "[?,3,9..12,20]" == str(reshaped.input(0).partial_shape)
    assert "[1,3,8,8]" == str(model.input(0).partial_shape)


def test_the_error_of_a_shape_that_the_model_refuses_names_the_node() -> None:
    with pytest.raises(CannotReshape, match=r"^the model refuses it at node 'Convolution_[0-9]+'$"):
        RUNTIME.reshaped(models.convolution(), [(1, 4, 8, 8)])


@pytest.mark.parametrize(
    ("device", "config"), [("CPU", {"NO_SUCH_PROPERTY": 1}), ("NO_SUCH_DEVICE", {})]
)
def test_compiling_reports_an_unknown_device_or_property(
    device: str, config: dict[str, Any]
) -> None:
    with pytest.raises(CannotReshape, match=r"^OpenVINO cannot compile it$"):
        Runtime(device, config).compile(models.add_one())


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, "THROUGHPUT"), ({"PERFORMANCE_HINT": "LATENCY"}, "LATENCY"), ({"NUM_STREAMS": 1}, None)],
)
def test_the_hint_is_throughput_unless_the_settings_say_otherwise(
    config: dict[str, Any], expected: str | None
) -> None:
    runtime = Runtime("CPU", config)
    compilation = runtime.compile(models.add_one())
    if expected:
        assert expected == compilation._compiled.get_property("PERFORMANCE_HINT")
    else:
        assert 1 == compilation.streams
