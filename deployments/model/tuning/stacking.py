"""Stacks requests into one tensor, and splits the outputs again.

Allowed only if the model's graph proves that rows do not influence each other (`graph.rows.proof`),
and stacked runs give the same as single runs (`trial_runs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from deployments.datatypes import BYTES
from deployments.model.graph.rows.outputs import Detections, OutputRule, RowsAlong
from deployments.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Stacking:
    """A model's proven stacking, which is faster for shapes of up to `elements` a row."""

    rules: tuple[OutputRule, ...]
    elements: float


class RowsLost(Exception):
    """Raised when a stacked output does not have as many rows as the inputs."""


def stack(members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Stacks the members' rows along dimension 0, into one tensor for each input."""
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
    """Splits the outputs by member; member i had `rows[i]` rows. Raises RowsLost."""
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
    """The detections of images `start` to `end`, as if those images had run alone."""
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
