"""A model's inputs after the shape rules of its settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import openvino as ov

from deployments.dimensions import Dim, ShapeRule, parse_shape_rule
from deployments.inference import InputSpec
from deployments.model.openvino.runtime import CannotReshape, Runtime
from deployments.model.policy.shapes import accepted_dims, with_batch_axis

RUNTIME = Runtime("CPU", {})
Rules = str | Mapping[str, str]


def can_reshape(model: ov.Model) -> Callable[[Sequence[Sequence[Dim | int]]], bool]:
    def reshapes(shapes: Sequence[Sequence[Dim | int]]) -> bool:
        try:
            RUNTIME.reshaped(model, shapes)
        except CannotReshape:
            return False
        return True

    return reshapes


def specs(
    model: ov.Model, rules: Rules = "auto", batch_size: int | Literal["auto"] = "auto"
) -> tuple[InputSpec, ...]:
    read: ShapeRule | dict[str, ShapeRule] = (
        parse_shape_rule(rules)
        if isinstance(rules, str)
        else {name: parse_shape_rule(text) for name, text in rules.items()}
    )
    inputs, reshapes = RUNTIME.inputs(model), can_reshape(model)
    return with_batch_axis(inputs, accepted_dims(inputs, read, batch_size, reshapes), reshapes)
