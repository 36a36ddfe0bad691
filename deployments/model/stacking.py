"""Putting requests together into one tensor and taking the outputs apart again.

Allowed only where the model's graph proves that rows are kept apart (`batch_axis`), and stacked
runs give what single runs give (`trial_runs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

import numpy as np

from deployments.inference import InputSpec
from deployments.tensors import (
    BF16,
    BYTES,
    NUMPY_DTYPES,
    Array,
    Tensor,
    float32_to_bf16,
)

_GRAIN: Final = 24
_LARGEST_HALF: Final = 65504.0


@dataclass(frozen=True, slots=True)
class RowsAlong:
    """An output whose rows lie along `axis`, `each` elements for every row of the input."""

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


@dataclass(frozen=True, slots=True)
class Stacking:
    """Stacking is proven for the model, and pays for shapes of up to `elements` a row."""

    rules: tuple[OutputRule, ...]
    elements: float


class NotProven(Exception):
    """Raised when a model may answer otherwise where rows are stacked; the text says why."""


class RowsLost(Exception):
    """Raised when a stacked output does not hold as many rows as went in."""


def stack(members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """One tensor for every input, the members' rows behind one another along dimension 0."""
    if len(members) == 1:
        return list(members[0])
    return [_concatenate(parts) for parts in zip(*members, strict=True)]


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    if first.datatype == BYTES:
        return Tensor(first.name, BYTES, shape, [item for part in parts for item in part.data])
    return Tensor(first.name, first.datatype, shape, np.concatenate([part.data for part in parts]))


def scatter(
    outputs: Sequence[Tensor], rules: Sequence[OutputRule], rows: Sequence[int]
) -> list[list[Tensor]]:
    """The outputs of each member, which had `rows[i]` rows. Raises RowsLost."""
    if len(rows) == 1:
        return [list(outputs)]
    ends = list(accumulate(rows))
    starts = [end - count for end, count in zip(ends, rows, strict=True)]
    members: list[list[Tensor]] = [[] for _ in rows]
    for output, rule in zip(outputs, rules, strict=True):
        _check_rows(output, rule, ends[-1])
        for member, start, end in zip(members, starts, ends, strict=True):
            member.append(_part(output, rule, start, end))
    return members


def _check_rows(output: Tensor, rule: OutputRule, rows: int) -> None:
    axis = rule.axis if isinstance(rule, RowsAlong) else 2
    if output.shape[axis] != rule.each * rows:
        raise RowsLost(f"output '{output.name}' has shape {output.shape} for {rows} rows")


def _part(output: Tensor, rule: OutputRule, start: int, end: int) -> Tensor:
    if isinstance(rule, Detections):
        return _detections(output, rule.each, start, end)
    cut = slice(start * rule.each, end * rule.each)
    shape = (*output.shape[: rule.axis], cut.stop - cut.start, *output.shape[rule.axis + 1 :])
    if isinstance(output.data, list):
        strings = np.array(output.data, dtype=object).reshape(output.shape)
        index = (slice(None),) * rule.axis + (cut,)
        return Tensor(output.name, BYTES, shape, strings[index].ravel().tolist())
    data = output.data[(slice(None),) * rule.axis + (cut,)]
    return Tensor(output.name, output.datatype, shape, np.ascontiguousarray(data))


def _detections(output: Tensor, each: int, start: int, end: int) -> Tensor:
    """The detections of images `start` to `end`, as if those images had been run alone."""
    assert not isinstance(output.data, list)
    table = output.data[0, 0]
    unused = np.flatnonzero(table[:, 0] == -1)
    used = table[: unused[0]] if unused.size else table
    mine = used[(used[:, 0] >= start) & (used[:, 0] < end)]
    capacity = each * (end - start)
    alone = np.zeros((1, 1, capacity, 7), output.data.dtype)
    alone[0, 0, : len(mine)] = mine
    alone[0, 0, : len(mine), 0] -= start
    if len(mine) < capacity:
        alone[0, 0, len(mine), 0] = -1
    return Tensor(output.name, output.datatype, alone.shape, alone)


@dataclass(frozen=True, slots=True)
class Values:
    """What random tensors hold: floats of a standard deviation, whole numbers below a limit.

    Pictures without a `deviation` are noise from 0 to 255.
    """

    deviation: float | None = None
    below: int = 2


_USUAL: Final = Values()


def random_rows(
    specs: Sequence[InputSpec],
    shapes: Sequence[Sequence[int]],
    seed: int,
    values: Values = _USUAL,
) -> list[Tensor]:
    """Random tensors of these shapes: pictures from 0 to 255, else small numbers."""
    random = np.random.default_rng(seed)
    return [
        _random(spec, tuple(shape), random, values)
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def _random(
    spec: InputSpec, shape: tuple[int, ...], random: np.random.Generator, values: Values
) -> Tensor:
    if spec.datatype == BYTES:
        strings = [b"%d" % n for n in random.integers(0, 10, int(np.prod(shape)))]
        return Tensor(spec.name, BYTES, shape, strings)
    floats = spec.datatype == BF16 or NUMPY_DTYPES[spec.datatype].kind == "f"
    data: Array
    if spec.pictures and (values.deviation is None or not floats):
        data = _noise(shape, spec.pictures, random)
    elif floats:
        data = _floats(spec, shape, random, values.deviation or 1.0)
    else:
        data = np.asarray(random.integers(0, values.below, shape))
    if spec.datatype == BF16:
        data = float32_to_bf16(data.astype(np.float32))
    return Tensor(spec.name, spec.datatype, shape, data.astype(NUMPY_DTYPES[spec.datatype]))


def _floats(
    spec: InputSpec, shape: tuple[int, ...], random: np.random.Generator, deviation: float
) -> Array:
    data = np.asarray(deviation * random.normal(size=shape))
    return np.clip(data, -_LARGEST_HALF, _LARGEST_HALF) if spec.datatype == "FP16" else data


def _noise(shape: tuple[int, ...], layout: str, random: np.random.Generator) -> Array:
    """Pictures of coarse and fine noise, in which detectors find something."""
    fine = random.random(shape)
    coarse = random.random(shape)
    for axis in (2, 3) if layout == "NCHW" else (1, 2):
        coarse = coarse.take(np.arange(shape[axis]) // _GRAIN, axis)
    return np.asarray(204 * coarse + 51 * fine)
