"""What pays is measured, not assumed: compilations are timed against each other.

Others use the machine meanwhile, and from one moment to the next it is half as fast. So only what
ran right after each other is compared, and the median of such ratios counts or who won more often;
with the least time of each, one compilation in five was taken for the wrong one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from statistics import median
from typing import Final

from deployments.model.compilation import Compilation
from deployments.model.stacking import stack
from deployments.tensors import Tensor

_ROUNDS: Final = 3
_ROUNDS_TO_BE_SURE: Final = 9
_MOST_PAIRS: Final = 40
_AHEAD, _BEHIND = 3, 6
_EXPECTED: Final = _AHEAD - 1
_ROWS: Final = 4
_BATCHES: Final = 4
_STACKING_WINS_BELOW: Final = 0.9
_MEASURING_S: Final = 1.0
_BUILDING_MATTERS_FROM_S: Final = 0.005
_BUILDING_MATTERS_FROM: Final = 0.5
"""Of an inference. At 1.0 it paid so well, by half of the throughput, that a detector had it or not
from one start to the next."""
_NEW_SHAPES: Final = 3
_QUICK_WINS_BELOW: Final = 0.9
_COMPARED_SHAPES: Final = 5
_COMPARED_PAIRS: Final = 7
_LEAST_PAIRS: Final = 3
_COMPARING_S: Final = 5.0


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


def static_wins(
    static: Compilation,
    dynamic: Compilation,
    row: Sequence[Tensor],
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    expected: int = 0,
) -> bool:
    """Whether a shape's own compilation is the faster one. Raises CannotInfer.

    Decided by pairs of inferences: it is when it has won three more than it lost, and is not when
    it has lost six more than it won (a random walk between two bounds, see Wald, "Sequential
    Analysis", 1947). One that is kept and is no faster takes a place; one that is not kept costs
    its shape a tenth of its throughput until it is tried again. After a second or 40 pairs, it is
    if it is ahead. The first pair counts only if it is won: what is new has fewer caches filled.

    `expected` is what other shapes of the model lead to expect (`expected_after`): up to two pairs
    that count as won before it begins or, if negative, twice as many as lost. If time is over only
    the pairs count, so that what is slow is not decided by what was expected of it.

    Each of a pair runs twice, and the second time counts: it finds the caches as they are where
    all requests take this compilation. Until now they all took the dynamic one.

    Each pair is made `alone`: requests that wait for the streams of one and for the cores of the
    other would decide who wins. Others have their turn between the pairs.
    """
    expected = _bounded(expected)
    ahead = expected if expected > 0 else expected * _BEHIND // _AHEAD
    lead, until = 0, time.perf_counter() + _MEASURING_S
    works = partial(_second_s, static, row), partial(_second_s, dynamic, row)
    for number in range(1 + _MOST_PAIRS):
        with alone():
            won = _ratio(*works, swapped=number % 2 > 0) < 1
        if won or number:
            lead += 1 if won else -1
        if not -_BEHIND < lead + ahead < _AHEAD:
            return lead + ahead > 0
        if time.perf_counter() >= until:
            break
    return lead > 0


def expected_after(expected: int, static_won: bool) -> int:
    """What `static_wins` is to expect next, after a verdict under what was expected of it."""
    return _bounded(expected + (1 if static_won else -1))


def _bounded(expected: int) -> int:
    return max(-_EXPECTED, min(_EXPECTED, expected))


def clearly_quicker(one: Compilation, other: Compilation, row: Sequence[Tensor]) -> bool:
    """Whether `one` takes less than nine tenths of the other's time, by the median of pairs.

    Seven pairs, or as many as begin within five seconds; where that would be fewer than three, the
    answer is no. As for `static_wins`, the second of two inferences counts. Raises CannotInfer.
    """
    until = time.perf_counter() + _COMPARING_S
    if _seconds(partial(one.infer, row)) * 4 * _LEAST_PAIRS > _COMPARING_S:
        return False
    works = partial(_second_s, one, row), partial(_second_s, other, row)
    ratios: list[float] = []
    while len(ratios) < _COMPARED_PAIRS and time.perf_counter() < until:
        ratios.append(_ratio(*works, swapped=len(ratios) % 2 > 0))
    return len(ratios) >= _LEAST_PAIRS and median(ratios) < _QUICK_WINS_BELOW


def building_matters(compiled: Compilation, new: Iterable[Sequence[Tensor]]) -> bool:
    """Whether an inference at a shape for the first time takes half as long again as the next one,
    and some milliseconds more.

    `new` are tensors of shapes that it has not run; three are taken, or as many as there are.
    Raises CannotInfer.
    """
    times = [
        [_seconds(partial(compiled.infer, row)) for _ in range(2)]
        for row in islice(new, _NEW_SHAPES)
    ]
    if not times:
        return False
    new_s, again_s = map(median, zip(*times, strict=True))
    least_s = max(_BUILDING_MATTERS_FROM_S, _BUILDING_MATTERS_FROM * again_s)
    return bool(new_s - again_s >= least_s)


def quicker_at_first_sight(
    quick: Compilation, usual: Compilation, new: Iterable[Sequence[Tensor]]
) -> bool:
    """Whether shapes that neither has run are answered sooner by `quick`.

    Up to six of `new` are taken; with fewer than four the answer is no. Raises CannotInfer.
    """
    rows = islice(new, 1 + _COMPARED_SHAPES)
    if (first := next(rows, None)) is not None:
        quick.infer(first)  # the first one of all takes longer
    times = [[_seconds(partial(either.infer, row)) for either in (quick, usual)] for row in rows]
    if len(times) < _NEW_SHAPES:
        return False
    return median(quick_s / usual_s for quick_s, usual_s in times) < _QUICK_WINS_BELOW


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
