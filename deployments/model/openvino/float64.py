"""FP64 inputs and outputs, which OpenVINO's plugins compute in float32.

The plugins would turn infinite inputs and outputs into the largest float32; numpy's conversions
keep them. So compiled models take and give float32 instead.
"""

from typing import Final

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from deployments.tensors import Array

FP64: Final = "FP64"


def in_float32(model: ov.Model) -> ov.Model:
    """The model with float32 for FP64 inputs and outputs; the same model if it has none."""
    ports = [*model.inputs, *model.outputs]
    if all(port.get_element_type() != ov.Type.f64 for port in ports):
        return model
    processor = PrePostProcessor(model.clone())
    for position, port in enumerate(model.inputs):
        if port.get_element_type() == ov.Type.f64:
            processor.input(position).tensor().set_element_type(ov.Type.f32)
    for position, port in enumerate(model.outputs):
        if port.get_element_type() == ov.Type.f64:
            processor.output(position).tensor().set_element_type(ov.Type.f32)
    return processor.build()


def narrowed(values: Array) -> Array:
    """Converts to float32; values beyond its range become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32)


def widened(values: Array) -> Array:
    return values.astype(np.float64)
