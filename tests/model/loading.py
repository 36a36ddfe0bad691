"""Loads models as the server does, and gets OpenVINO's own answers."""

from collections.abc import Sequence
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import openvino as ov

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.dimensions import parse_shape_rule
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.openvino.renewal import SelfHealingModel
from deployments.model.openvino.runtime import BUILT_IN
from deployments.model.versions.loaded import LoadedModel, LoadSettings
from deployments.settings.preprocessing import Preprocessing
from deployments.tensors import Array, Tensor

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def loaded(
    model: ov.Model,
    *,
    shape: str | dict[str, str] = "auto",
    batch_size: int | Literal["auto"] = "auto",
    background: bool = True,
    stacking: Literal["auto", "always", "never"] = "never",
    max_batch_rows: int = 32,
    device: str = "CPU",
    plugin_config: dict[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
) -> LoadedModel:
    rules = (
        parse_shape_rule(shape)
        if isinstance(shape, str)
        else {name: parse_shape_rule(text) for name, text in shape.items()}
    )
    settings = LoadSettings(
        device=device,
        plugin_config=FLOAT32 if plugin_config is None else plugin_config,
        shape=rules,
        batch_size=batch_size,
        background=background,
        max_batch_rows=max_batch_rows,
        stacking=stacking,
        preprocessing=preprocessing or Preprocessing(),
    )
    with patch.dict(BUILT_IN, {"builtin:tested": lambda: model}):
        return LoadedModel("m", "1", "builtin:tested", settings)


def dynamic(version: LoadedModel) -> CompiledShape:
    """The version's compilation for all shapes."""
    assert isinstance(version.dynamic, CompiledShape)
    return version.dynamic


def input_shapes(compiled: CompiledShape) -> list[str]:
    return [str(port.partial_shape) for port in compiled._compiled.inputs]


def idle(compiled: CompiledShape) -> list[Any]:
    """The idle infer requests of a compilation."""
    requests = compiled._requests
    return (requests._current if isinstance(requests, SelfHealingModel) else requests).idle


def tensor(values: Any, datatype: str = "FP32", name: str = "x") -> Tensor:
    if datatype == BYTES:
        strings = np.array(values, object)
        return Tensor(name, BYTES, strings.shape, strings.ravel().tolist())
    array = np.array(values, NUMPY_DTYPES[datatype])
    return Tensor(name, datatype, array.shape, array)


def array(output: Tensor) -> Array:
    assert not isinstance(output.data, list)
    return output.data


def direct(model: ov.Model, tensors: Sequence[Tensor]) -> list[Any]:
    """OpenVINO's own answer, compiled for these shapes: arrays, BF16 as bits, strings."""
    static = model.clone()
    static.reshape({i: list(t.shape) for i, t in enumerate(tensors)})
    request = ov.Core().compile_model(static, "CPU", FLOAT32).create_infer_request()
    for position, given in enumerate(tensors):
        request.set_input_tensor(position, _given(given))
    request.start_async()
    request.wait()
    return [_got(output) for output in request.output_tensors]


def _given(given: Tensor) -> Any:
    if isinstance(given.data, list):
        strings = ov.Tensor(ov.Type.string, ov.Shape(list(given.shape)))
        if given.data:
            strings.bytes_data = given.data
        return strings
    if given.datatype == BF16:
        halves = ov.Tensor(ov.Type.bf16, ov.Shape(list(given.shape)))
        halves.data.view(np.uint16)[...] = given.data
        return halves
    return ov.Tensor(given.data)


def _got(output: Any) -> Any:
    if output.element_type == ov.Type.string:
        return np.asarray(output.bytes_data).ravel().tolist() if output.size else []
    data = np.array(output.data).reshape(tuple(output.shape))
    return data.view(np.uint16) if output.element_type == ov.Type.bf16 else data


def assert_same(expected: Sequence[Any], actual: Sequence[Tensor]) -> None:
    """Compares bits, dtypes and shapes."""
    assert len(expected) == len(actual)
    for wanted, got in zip(expected, actual, strict=True):
        if isinstance(wanted, list):
            assert wanted == got.data
            continue
        assert isinstance(got.data, np.ndarray)
        assert wanted.shape == got.shape == got.data.shape
        assert wanted.dtype == got.data.dtype == NUMPY_DTYPES[got.datatype]
        assert wanted.tobytes() == got.data.tobytes()
