"""Times compilations against each other.

Other work uses the machine meanwhile, and its speed may halve from one moment to the next. So only
runs right after each other are compared, and the median of their ratios decides. With the least
time of each, one decision in five was wrong.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Final

from deployments import timing
from deployments.model.openvino.compilation import Compilation
from deployments.model.tuning.stacking import stack
from deployments.tensors import Tensor

_ROUNDS: Final = 3
_ROUNDS_TO_BE_SURE: Final = 9
_ROWS: Final = 4
_BATCHES: Final = 4
_STACKING_WINS_BELOW: Final = 0.9
_QUICK_WINS_BELOW: Final = 0.9
_COMPARED_PAIRS: Final = 7
_LEAST_PAIRS: Final = 3


def stacking_wins(compiled: Compilation, row: Sequence[Tensor], threads: int) -> bool:
    """Whether rows run faster stacked than side by side under load. Raises CannotInfer.

    Both run the same rows in as many threads as there are infer requests; the copy for stacking
    counts. If three rounds favour stacking, six more follow, because the verdict is final, and
    other work takes cores from either of them while a server starts.
    """
    with ThreadPoolExecutor(threads) as pool:

        def run(batch: Callable[[], Sequence[Tensor]], count: int) -> None:
            list(pool.map(lambda _: compiled.infer(batch()), range(count)))

        def together() -> None:
            run(lambda: stack([row] * _ROWS), _BATCHES)

        def apart() -> None:
            run(lambda: row, _BATCHES * _ROWS)

        works = partial(_seconds, together), partial(_seconds, apart)
        ratios: list[float] = []
        for rounds in (1 + _ROUNDS, 1 + _ROUNDS_TO_BE_SURE):
            while len(ratios) < rounds:
                ratios.append(_ratio(*works, swapped=len(ratios) % 2 > 0))
            if (
                median(ratios[1:]) >= _STACKING_WINS_BELOW
            ):  # the first round starts with cold caches
                return False
    return True


def clearly_quicker(one: Compilation, other: Compilation, row: Sequence[Tensor]) -> bool:
    """Whether `one` takes less than nine tenths of the other's time, by the median of pairs.

    It runs seven pairs, or as many as begin within five seconds; if these are fewer than three, the
    answer is no. The second of two inferences counts: its caches are filled as if all requests used
    this compilation. Raises CannotInfer.
    """
    until = time.perf_counter() + timing.COMPARING_S
    if _seconds(partial(one.infer, row)) * 4 * _LEAST_PAIRS > timing.COMPARING_S:
        return False
    works = partial(_second_s, one, row), partial(_second_s, other, row)
    ratios: list[float] = []
    while len(ratios) < _COMPARED_PAIRS and time.perf_counter() < until:
        ratios.append(_ratio(*works, swapped=len(ratios) % 2 > 0))
    return len(ratios) >= _LEAST_PAIRS and median(ratios) < _QUICK_WINS_BELOW


def _ratio(one: Callable[[], float], other: Callable[[], float], *, swapped: bool) -> float:
    """The ratio of the seconds of `one` and `other`, run in this order or `swapped`."""
    if swapped:
        other_s, one_s = other(), one()
    else:
        one_s, other_s = one(), other()
    return one_s / other_s


def _second_s(compiled: Compilation, row: Sequence[Tensor]) -> float:
    """The seconds of the second of two inferences."""
    compiled.infer(row)
    return _seconds(partial(compiled.infer, row))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
