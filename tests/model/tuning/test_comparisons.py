from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.tuning.comparisons import clearly_quicker, stacking_wins
from deployments.model.tuning.stacking import stack
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import dynamic, loaded, tensor
from tests.model.spent_time import CLOCK

pytestmark = pytest.mark.usefixtures("spent_time")


class Timed(CompiledShape):
    """A compilation that takes so long for every call, and more than as long for twice the rows.

    The `lucky` calls take next to no time.
    """

    def __init__(
        self, compiled: CompiledShape, call_s: float, row_s: float, lucky: Sequence[int]
    ) -> None:
        super().__init__(compiled._requests, compiled._outputs)
        self.call_s, self.row_s = call_s, row_s
        self.calls = 0
        self.lucky = lucky

    def infer(self, tensors: Sequence[Tensor], *_: Any) -> list[Tensor]:
        CLOCK.spend(1e-5)
        if self.calls not in self.lucky:
            CLOCK.spend(self.call_s + self.row_s * tensors[0].shape[0] ** 1.5)
        self.calls += 1
        return super().infer(tensors)


def timed(call_s: float, row_s: float, lucky: Sequence[int] = ()) -> Timed:
    return Timed(dynamic(loaded(models.add_one())), call_s, row_s, lucky)


def test_stacking_wins_where_the_call_costs_and_not_where_the_rows_do() -> None:
    row = [tensor(np.ones((1, 4)))]
    assert stacking_wins(timed(0.004, 0.0), row, 2)
    assert not stacking_wins(timed(0.0, 0.002), row, 2)


def test_one_lucky_moment_does_not_make_stacking_win() -> None:
    row = [tensor(np.ones((1, 4)))]
    round_of = 4 + 16  # stacked, then side by side, and in the next round the other way round
    lucky = range(round_of + 16, round_of + 20)
    assert not stacking_wins(timed(0.0, 0.002, lucky), row, 2)


@pytest.mark.parametrize(("lucky_rounds", "wins"), [(3, False), (9, True)])
def test_some_lucky_rounds_do_not_make_stacking_win(lucky_rounds: int, wins: bool) -> None:
    row = [tensor(np.ones((1, 4)))]
    round_of = 4 + 16  # stacked first in every other round
    lucky: list[int] = []
    for number in range(1, 1 + lucky_rounds):
        begin = number * round_of + (16 if number % 2 else 0)
        lucky += range(begin, begin + 4)
    assert wins == stacking_wins(timed(0.0, 0.002, lucky), row, 1)


def test_copying_rows_together_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    row = [tensor(np.ones((1, 4)))]

    def slowly(members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        CLOCK.spend(0.05)
        return stack(members)

    monkeypatch.setattr("deployments.model.tuning.comparisons.stack", slowly)
    assert not stacking_wins(timed(0.004, 0.0), row, 2)


@pytest.mark.parametrize("lucky", [(), (0, 1), (3,)])
def test_one_is_clearly_quicker_by_its_usual_time(lucky: tuple[int, ...]) -> None:
    row = [tensor(np.ones((1, 4)))]
    slow, fast = timed(0.02, 0.0, lucky), timed(0.001, 0.0)
    assert clearly_quicker(fast, slow, row)
    assert (2 * 7, 1 + 2 * 7) == (slow.calls, fast.calls)
    assert not clearly_quicker(slow, fast, row)
    assert not clearly_quicker(timed(0.004, 0.0), timed(0.004, 0.0), row)


def test_slow_models_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.timing.COMPARING_S", 1.0)
    row = [tensor(np.ones((1, 4)))]
    slow, fast = timed(0.4, 0.0), timed(0.1, 0.0)
    assert not clearly_quicker(fast, slow, row), "it would take 1.2 s for three pairs"
    assert (0, 1) == (slow.calls, fast.calls)
    slow, fast = timed(0.3, 0.0), timed(0.05, 0.0)
    assert not clearly_quicker(fast, slow, row), "two are not enough"
    assert 2 * 2 == slow.calls
