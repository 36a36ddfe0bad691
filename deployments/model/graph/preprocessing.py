"""Builds the preprocessing settings into a model's graph.

Clients then see other datatypes, layouts and sizes than the model's. The steps of an input are, in
this order: to f32, colours, resize, mean, scale, and last the model's layout and datatype. The
steps of an output are the clients' datatype, then their layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import openvino as ov
from openvino.preprocess import ColorFormat, PrePostProcessor, ResizeAlgorithm

from deployments.model.graph.ports import Port, resolve_ports
from deployments.model.openvino.compiled_model import where_it_failed
from deployments.model.openvino.reshaping import dimension
from deployments.model.openvino.runtime import DATATYPE_OF, ModelInput
from deployments.model.policy.shapes import PolicyError
from deployments.settings.preprocessing import Numbers, Preprocessing

_TYPES: Final = {name: kind for kind, name in DATATYPE_OF.items()}
_COLORS: Final = {"RGB": ColorFormat.RGB, "BGR": ColorFormat.BGR, "GRAY": ColorFormat.GRAY}
_ALGORITHMS: Final = {
    "linear": ResizeAlgorithm.RESIZE_LINEAR,
    "cubic": ResizeAlgorithm.RESIZE_CUBIC,
    "nearest": ResizeAlgorithm.RESIZE_NEAREST,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model with its preprocessing, and the facts about it that the graph does not show."""

    model: ov.Model
    held: tuple[frozenset[int], ...]
    colors: tuple[Literal["BGR", "RGB"], ...]

    def described(self, inputs: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
        return tuple(
            replace(tensor, held=held, colors=colors)
            for tensor, held, colors in zip(inputs, self.held, self.colors, strict=True)
        )


def prepare(model: ov.Model, settings: Preprocessing) -> Prepared:
    """Builds the model as clients see it, without changing the given one. Raises PolicyError."""
    inputs, outputs = resolve_ports(model, settings)
    changes = any(port.changes for port in (*inputs, *outputs))
    return Prepared(
        _built(model.clone(), inputs, outputs) if changes else model,
        tuple(port.held_axes() for port in inputs),
        tuple("RGB" if port.color and port.color.target == "RGB" else "BGR" for port in inputs),
    )


def _built(model: ov.Model, inputs: Sequence[Port], outputs: Sequence[Port]) -> ov.Model:
    processor = PrePostProcessor(model)
    try:
        for position, port in enumerate(inputs):
            if port.changes:
                _prepare_input(processor.input(position), port)
        for position, port in enumerate(outputs):
            if port.changes:
                _prepare_output(processor.output(position), port)
        return processor.build()
    except Exception as error:
        where = where_it_failed(error)
        raise PolicyError(
            f"OpenVINO cannot build the preprocessing into the model{where}"
        ) from error


def _prepare_input(info: Any, port: Port) -> None:
    tensor = info.tensor()
    if port.precision:
        tensor.set_element_type(_TYPES[port.precision.target])
    if port.layout:
        tensor.set_layout(ov.Layout(str(port.layout.target)))
        info.model().set_layout(ov.Layout(str(port.layout.source)))
    if port.computes:
        tensor.set_shape(ov.PartialShape([dimension(dim) for dim in port.client_dims()]))
        _compute(tensor, info.preprocess(), port)


def _compute(tensor: Any, steps: Any, port: Port) -> None:
    steps.convert_element_type(ov.Type.f32)
    if port.color and port.color.target != port.color.source:
        tensor.set_color_format(_COLORS[port.color.target])
        steps.convert_color(_COLORS[port.color.source])
    if port.resize != "none":
        height, width = port.dim("H", "resize").fixed, port.dim("W", "resize").fixed
        steps.resize(_ALGORITHMS[port.resize], height, width)
    if port.mean is not None:
        steps.mean(_given(port.mean))
    if port.scale is not None:
        steps.scale(_given(port.scale))


def _given(numbers: Numbers) -> float | list[float]:
    return list(numbers) if isinstance(numbers, tuple) else numbers


def _prepare_output(info: Any, port: Port) -> None:
    if port.precision:
        info.tensor().set_element_type(_TYPES[port.precision.target])
    if port.layout:
        info.model().set_layout(ov.Layout(str(port.layout.source)))
        info.tensor().set_layout(ov.Layout(str(port.layout.target)))
