"""Models loaded with preprocessing, and their inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from deployments.datatypes import BF16
from deployments.inference import InputSpec, OutputSpec
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.versions.loaded import LoadedModel
from deployments.settings.model import ModelSettings
from deployments.settings.preprocessing import Preprocessing
from deployments.tensors import Array, Tensor, bf16_to_float32
from tests.model.loading import dynamic, loaded

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
RANDOM = np.random.default_rng(5)


def read(**given: Any) -> Preprocessing:
    """The settings, as an operator writes them."""
    values = {"name": "m", "source": "builtin:spots", **given}
    return ModelSettings.model_validate(values).preprocessing


def prepared(model: ov.Model, **given: Any) -> LoadedModel:
    """Loads a model with preprocessing; `shape`, `batch_size` and the like apply to loading."""
    loading = {"shape", "batch_size", "background", "stacking"}
    rest = {name: value for name, value in given.items() if name not in loading}
    others = {name: value for name, value in given.items() if name in loading}
    return loaded(model, preprocessing=read(**rest), **others)


def compilations(version: LoadedModel, *given: Tensor) -> list[CompiledShape]:
    """The dynamic compilation and the static one for these shapes."""
    key, _ = version.info.key_and_rows(version.info.arrange(given), 32)
    return [dynamic(version), version.reshape(key)()]


def told(version: LoadedModel) -> list[str]:
    ports: list[InputSpec | OutputSpec] = [*version.info.inputs, *version.info.outputs]
    return [
        f"{port.name} {port.datatype} ({','.join(map(str, port.dims))}) {port.layout}"
        for port in ports
    ]


def float32(values: Any) -> Array:
    return np.array(values, np.float32)


def pixels(*shape: int) -> Array:
    return RANDOM.integers(0, 256, shape, np.uint8)


def floats(output: Tensor) -> Array:
    assert isinstance(output.data, np.ndarray)
    return bf16_to_float32(output.data) if output.datatype == BF16 else output.data


def handed_on(version: LoadedModel, x: Tensor) -> list[Array]:
    """The input of a model that adds one, recovered from the output of each compilation."""
    return [floats(compiled.infer([x])[0]) - np.float32(1) for compiled in compilations(version, x)]


def stored(tmp_path: Path, model: ov.Model, layout: str, output: str | None = None) -> ov.Model:
    """The model, read from a file with a layout."""
    model.get_parameters()[0].set_layout(ov.Layout(layout))
    if output is not None:
        model.get_results()[0].set_layout(ov.Layout(output))
    ov.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    return ov.Core().read_model(tmp_path / "m.xml")
