import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from deployments.model.compiled_shape import CompiledShape
from deployments.model.measuring import best_times, stacking_wins, static_wins
from deployments.model.stacking import stack
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import dynamic, loaded, tensor


class Timed(CompiledShape):
    """A compilation that takes so long for every call, and more than as long for twice the rows."""

    def __init__(self, compiled: CompiledShape, call_s: float, row_s: float) -> None:
        super().__init__(compiled._requests, compiled._outputs)
        self.call_s, self.row_s = call_s, row_s
        self.calls = 0

    def infer(self, tensors: Sequence[Tensor], *_: Any) -> list[Tensor]:
        self.calls += 1
        time.sleep(self.call_s + self.row_s * tensors[0].shape[0] ** 1.5)
        return super().infer(tensors)


def timed(call_s: float, row_s: float) -> Timed:
    return Timed(dynamic(loaded(models.add_one())), call_s, row_s)


def test_works_take_turns_and_the_first_round_is_not_timed() -> None:
    order: list[str] = []

    def first() -> None:
        time.sleep(0.05 if len(order) < 2 else 0.0)
        order.append("a")

    first_s, second_s = best_times(first, lambda: order.append("b"), rounds=2)
    assert ["a", "b"] * 3 == order
    assert 0 <= first_s < 0.05
    assert 0 <= second_s < 0.05


def test_stacking_wins_where_the_call_costs_and_not_where_the_rows_do() -> None:
    row = [tensor(np.ones((1, 4)))]
    assert stacking_wins(timed(0.004, 0.0), row, 2)
    assert not stacking_wins(timed(0.0, 0.002), row, 2)


def test_copying_rows_together_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    row = [tensor(np.ones((1, 4)))]

    def slowly(members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        time.sleep(0.05)
        return stack(members)

    monkeypatch.setattr("deployments.model.measuring.stack", slowly)
    assert not stacking_wins(timed(0.004, 0.0), row, 2)


def test_the_faster_of_two_compilations_is_found() -> None:
    row = [tensor(np.ones((1, 4)))]
    slow, fast = timed(0.004, 0.0), timed(0.001, 0.0)
    assert static_wins(fast, slow, row)
    assert not static_wins(slow, fast, row)


def test_each_pair_is_measured_alone() -> None:
    row = [tensor(np.ones((1, 4)))]
    slow, fast = timed(0.004, 0.0), timed(0.001, 0.0)
    inside: list[int] = []

    @contextmanager
    def alone() -> Iterator[None]:
        before = slow.calls + fast.calls
        yield
        inside.append(slow.calls + fast.calls - before)

    assert static_wins(fast, slow, row, alone)
    assert [2] * 5 == inside


def test_those_that_wait_for_somebody_alone_do_not_wait_for_long() -> None:
    row = [tensor(np.ones((1, 4)))]
    slow, fast = timed(0.9, 0.0), timed(0.3, 0.0)
    assert static_wins(fast, slow, row)
    assert (1, 1) == (slow.calls, fast.calls)
    slow, fast = timed(0.4, 0.0), timed(0.2, 0.0)
    assert not static_wins(slow, fast, row)
    assert (2, 2) == (slow.calls, fast.calls)
