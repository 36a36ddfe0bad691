"""Reshapes copies of a model, also to foresee whether an inference can run."""

from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any

import openvino as ov

from deployments.dimensions import Dim
from deployments.inference import InputShapes


class ReshapePreview:
    """Foresees whether a model runs at some shapes, by reshaping a copy; thread-safe.

    It reuses copies, which halves the time for each new shape. A shape that a used copy refuses is
    retried in a fresh one, because reshaping may have folded away what another shape needs.
    """

    def __init__(self, model: ov.Model) -> None:
        self._model = model
        self._copies: list[ov.Model] = []

    def says_it_runs(self, shapes: InputShapes) -> bool:
        """Whether all shapes in the model are known at these inputs and fit.

        False if a tensor has no elements: there the plugin has failed where the model did not.
        Raises OpenVINO's error if the shapes do not fit.
        """
        if not all(map(prod, shapes)):
            reshaped(self._model, shapes)
            return False
        copy = self._used_again(shapes) or reshaped(self._model, shapes)
        self._copies.append(copy)
        return not copy.is_dynamic()

    def _used_again(self, shapes: InputShapes) -> ov.Model | None:
        """A used copy, reshaped; None if there is none or it refuses the shapes."""
        with suppress(IndexError):
            copy = self._copies.pop()
            with suppress(Exception):  # the fresh copy decides
                _reshape(copy, shapes)
                return copy
        return None


def reshaped(model: ov.Model, shapes: Sequence[Sequence[Dim | int]]) -> ov.Model:
    """A copy of the model at these shapes, in the order of its inputs; shares the weights.

    Raises OpenVINO's error.
    """
    copy = model.clone()
    _reshape(copy, shapes)
    return copy


def _reshape(model: Any, shapes: Sequence[Sequence[Dim | int]]) -> None:
    model.reshape(
        {
            port: ov.PartialShape([dimension(dim) for dim in shape])
            for port, shape in zip(model.inputs, shapes, strict=True)
        }
    )


def dimension(dim: Dim | int) -> ov.Dimension:
    """Converts a dimension to OpenVINO's type."""
    if isinstance(dim, int):
        return ov.Dimension(dim)
    return ov.Dimension(dim.minimum, -1 if dim.maximum is None else dim.maximum)
