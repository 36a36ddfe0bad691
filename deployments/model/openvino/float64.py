"""FP64 at the ends of a graph: OpenVINO's plugins compute it in float32.

They would make the largest float32 of what is infinite, on its way in and on its way out; numpy's
conversions keep it. So what is compiled takes and gives float32 instead.
"""

from typing import Final

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from deployments.tensors import Array

FP64: Final = "FP64"


def in_float32(model: ov.Model) -> ov.Model:
    """The model with float32 for the FP64 of its inputs and outputs; itself where there is none."""
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
    """What lies beyond float32 becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32)


def widened(values: Array) -> Array:
    return values.astype(np.float64)
