"""Trials whether stacked runs give the same as single runs, in addition to the graph's proof.

Rows of one stack have different magnitudes, which reveals values computed from all rows.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import numpy as np

from deployments import timing
from deployments.datatypes import BF16
from deployments.inference import InputSpec
from deployments.model.graph.rows.outputs import Detections, NotProven, OutputRule
from deployments.model.openvino.compiled_model import CannotInfer
from deployments.model.tuning.random_inputs import Values, random_rows
from deployments.model.tuning.stacking import RowsLost, scatter, stack
from deployments.tensors import Tensor, bf16_to_float32

Infer: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]

_ROWS_TRIED: Final = 3
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
_USUAL: Final = (Values(), Values(), Values())
_MAGNITUDES: Final = ((1e-2, 1e2, 1e4), (1e4, 1.0, 1e-2))
_LIMITS: Final = ((10, 2), (100, 10, 2))
"""The limits of integers; if a model fails for larger ones, smaller ones are tried."""


def prove(
    infer: Infer,
    specs: Sequence[InputSpec],
    shapes: Sequence[Sequence[int]],
    rules: Sequence[OutputRule],
) -> None:
    """Raises NotProven if stacked runs differ from single runs. Raises CannotInfer.

    `shapes` are those of one row. The trial skips unusual magnitudes at which the model fails, and
    begins none of them after five seconds, so that slow models load sooner.
    """
    if not rules:
        raise NotProven("the model has no outputs")
    deadline = time.monotonic() + timing.STACKING_TRIALS_S
    _compare(infer, specs, shapes, rules, _USUAL)
    for magnitudes, limits in zip(_MAGNITUDES, _LIMITS, strict=True):
        for below in limits:
            if time.monotonic() > deadline:
                return
            with suppress(CannotInfer):
                rows = [Values(magnitude, below) for magnitude in magnitudes]
                _compare(infer, specs, shapes, rules, rows)
                break


def _compare(
    infer: Infer,
    specs: Sequence[InputSpec],
    shapes: Sequence[Sequence[int]],
    rules: Sequence[OutputRule],
    values: Sequence[Values],
) -> None:
    """Compares a stack of one row and two rows, so that one member has several rows."""
    first, *others = [
        random_rows(specs, shapes, seed, kind) for seed, kind in enumerate(values, start=1)
    ]
    members = [first, stack(others)]
    alone = [infer(member) for member in members]
    if values is _USUAL and not all(_tells(outputs, rules) for outputs in alone):
        raise NotProven("the detector finds nothing in random pictures, so a trial proves nothing")
    try:
        apart = scatter(infer(stack(members)), rules, [1, _ROWS_TRIED - 1])
        singly = scatter(alone[1], rules, [1] * len(others))
    except (RowsLost, IndexError) as error:
        raise NotProven(f"a trial run and the graph differ in output shapes: {error}") from error
    for expected, actual in zip([*alone, *map(infer, others)], [*apart, *singly], strict=True):
        _check_same(expected, actual)


def _check_same(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
    for wanted, got in zip(expected, actual, strict=True):
        if not _close(wanted, got):
            raise NotProven(
                f"output '{wanted.name}' of stacked rows differs from that of each row alone"
            )


def _tells(outputs: Sequence[Tensor], rules: Sequence[OutputRule]) -> bool:
    """Whether there is anything to compare; a detector may have found nothing."""
    return all(
        not isinstance(rule, Detections) or np.asarray(output.data)[0, 0, 0, 0] != -1
        for output, rule in zip(outputs, rules, strict=True)
    )


def _close(expected: Tensor, actual: Tensor) -> bool:
    if expected.shape != actual.shape:
        return False
    if isinstance(expected.data, list) or isinstance(actual.data, list):
        return expected.data == actual.data
    left, right = expected.data, actual.data
    if expected.datatype == BF16:
        left, right = bf16_to_float32(left), bf16_to_float32(right)
    if left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    scale = float(np.max(np.abs(left), initial=0.0, where=np.isfinite(left)))
    return bool(np.allclose(left, right, rtol=_RELATIVE, atol=_ABSOLUTE * scale, equal_nan=True))
