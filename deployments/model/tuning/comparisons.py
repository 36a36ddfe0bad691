"""What pays is measured, not assumed: compilations are timed against each other.

Others use the machine meanwhile, and from one moment to the next it is half as fast. So only what
ran right after each other is compared, and the median of such ratios counts; with the least time of
each, one compilation in five was taken for the wrong one.
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
    """Whether rows run faster stacked than side by side, as they would run under load.

    Both run the same rows in as many threads as there are infer requests; that they have to be
    copied to be stacked counts. Where three rounds say so, six more are made: the verdict is for
    good, and while a server starts others take the cores from one or the other. Raises CannotInfer.
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
            if median(ratios[1:]) >= _STACKING_WINS_BELOW:  # the first has fewer caches filled
                return False
    return True


def clearly_quicker(one: Compilation, other: Compilation, row: Sequence[Tensor]) -> bool:
    """Whether `one` takes less than nine tenths of the other's time, by the median of pairs.

    Seven pairs, or as many as begin within five seconds; where that would be fewer than three, the
    answer is no. The second of two inferences counts, which finds the caches as they are where all
    requests take this compilation. Raises CannotInfer.
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
    """The seconds of one against those of the other, taken in this order or `swapped`."""
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
