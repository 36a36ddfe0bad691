"""Compares the answers of two compilations of a model.

OpenVINO compiles some models wrongly for some static shapes (docs/upstream), so each compilation is
compared. Two correct ones differ by rounding: up to 1e-4 of an output's largest value in float32,
and more where the device computes with fewer bits (bfloat16 has 8, float16 11).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deployments.datatypes import BF16
from deployments.tensors import Array, Tensor, bf16_to_float32

_TOLERANCES: Final = {"f32": 1e-4, "bf16": 5e-2, "f16": 1e-2}
_OF_OTHER_DEVICES: Final = 1e-2


def tolerance(precision: str | None) -> float:
    """The largest difference between correct answers, relative to an output's largest value.

    `precision` is that of the arithmetic in OpenVINO's spelling, None if unknown.
    """
    return _TOLERANCES.get(precision or "", _OF_OTHER_DEVICES)


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference between two answers, relative to the largest value of the `output`.

    It is 1 if integers, strings or shapes differ, or if only one answer is NaN or infinite.
    """

    largest: float
    output: str


def difference(
    one: Sequence[Tensor], other: Sequence[Tensor], detections: Sequence[bool]
) -> Difference:
    """The largest difference of all outputs; `detections` marks those of a DetectionOutput.

    Detections are compared image by image, because their order has no meaning.
    """
    found = [
        Difference(_of_detections(left, right) if are else _of(left, right), left.name)
        for left, right, are in zip(one, other, detections, strict=True)
    ]
    return max(found, key=lambda difference: difference.largest)


def _of(left: Tensor, right: Tensor) -> float:
    if left.shape != right.shape:
        return 1.0
    if isinstance(left.data, list) or isinstance(right.data, list):
        return float(left.data != right.data)
    one, other = _numbers(left), _numbers(right)
    if one.dtype.kind != "f":
        return float(not np.array_equal(one, other))
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return 1.0
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return 1.0
    return _relative(one[finite], other[finite])


def _numbers(tensor: Tensor) -> Array:
    assert not isinstance(tensor.data, list)
    return bf16_to_float32(tensor.data) if tensor.datatype == BF16 else tensor.data


def _relative(one: Array, other: Array) -> float:
    largest = max(_largest(one), _largest(other))
    if not largest:
        return 0.0
    return min(1.0, _largest(one.astype(np.float64) - other.astype(np.float64)) / largest)


def _largest(values: Array) -> float:
    return float(np.max(np.abs(values), initial=0.0))


def _of_detections(left: Tensor, right: Tensor) -> float:
    """Compares detections: [image_id, label, confidence, x_min, y_min, x_max, y_max] (opset 8)."""
    if left.shape != right.shape:
        return 1.0
    one, other = _used(left), _used(right)
    images = {*one[:, 0].tolist(), *other[:, 0].tolist()}
    of_images = (_of_image(one[one[:, 0] == i], other[other[:, 0] == i]) for i in images)
    return max(of_images, default=0.0)


def _used(tensor: Tensor) -> Array:
    table = _numbers(tensor).reshape(-1, 7)
    unused = np.flatnonzero(table[:, 0] == -1)
    return table[: unused[0]] if unused.size else table


def _of_image(one: Array, other: Array) -> float:
    scale = max(1.0, _largest(one[:, 2:]), _largest(other[:, 2:]))
    return max([*_unlike(one, other, scale), *_unlike(other, one, scale)])


def _unlike(rows: Array, others: Array, scale: float) -> Iterator[float]:
    """The distance of each row from the nearest of the others.

    If there are fewer others, a row's distance is at most its confidence above their lowest one:
    rounding decides which of the least confident detections a detector lists.
    """
    least = float(others[:, 2].min()) if len(others) else 0.0
    for row in rows:
        alike = others[others[:, 1] == row[1]]
        away = np.abs(alike[:, 2:] - row[2:]).max(axis=1) / scale if len(alike) else np.ones(1)
        nearest = min(1.0, float(away.min()))
        yield min(nearest, max(0.0, row[2] - least)) if len(rows) > len(others) else nearest


def input_statistics(inputs: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """The smallest, the largest and the mean value of each numeric input."""
    return {
        tensor.name: _of_numbers(
            bf16_to_float32(tensor.data) if tensor.datatype == BF16 else tensor.data
        )
        for tensor in inputs
        if not isinstance(tensor.data, list) and tensor.data.size
    }


def _of_numbers(values: Array) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
    }
