"""The places of a request's rows in the outputs of a model."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RowsAlong:
    """An output whose rows lie along `axis`, `each` elements for each row of the input."""

    axis: int
    each: int


@dataclass(frozen=True, slots=True)
class Detections:
    """The output [1,1,each*N,7] of a DetectionOutput: rows tagged with an image id.

    The rows of all images stand together at the front; the first unused row starts with -1
    and the rest is zero (OpenVINO opset 8, DetectionOutput).
    """

    each: int


OutputRule: TypeAlias = RowsAlong | Detections


class NotProven(Exception):
    """Raised when stacking may change a model's answers; the text says why."""
