"""What pays is measured, not assumed: compilations are timed against each other.

Others use the machine meanwhile, so the works take turns, and the least time of each counts or its
median.
"""

import math
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
_PAIRS: Final = 4
_ROWS: Final = 4
_BATCHES: Final = 4
_STACKING_WINS_BELOW: Final = 0.9
_STATIC_WINS_BELOW: Final = 1.0
_MEASURING_S: Final = 1.0
_BUILDING_DOMINATES_ABOVE: Final = 2.0
_BUILDING_MATTERS_FROM_S: Final = 0.005
_NEW_SHAPES: Final = 3
_QUICK_WINS_BELOW: Final = 0.9
_COMPARED_SHAPES: Final = 5


def best_times(
    *works: Callable[[], object],
    rounds: int = _ROUNDS,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    longest_s: float = math.inf,
    swapping: bool = False,
) -> list[float]:
    """The least time of each work, in seconds, over so many rounds after one that does not count.

    Each round is made `alone`. No further one begins after `longest_s`: where there was only the
    first, that one counts. `swapping`, every second round begins with the last work: who comes
    later in a round finds the caches filled.
    """
    times: list[list[float]] = []
    until = time.perf_counter() + longest_s
    while len(times) <= rounds and (not times or time.perf_counter() < until):
        step = -1 if swapping and len(times) % 2 else 1
        with alone():
            times.append([_seconds(work) for work in works[::step]][::step])
    return [min(mine) for mine in zip(*(times[1:] or times), strict=True)]


def stacking_wins(compiled: Compilation, row: Sequence[Tensor], threads: int) -> bool:
    """Whether rows run faster stacked than side by side, as they would run under load.

    Both run the same rows in as many threads as there are infer requests; that they have to be
    copied to be stacked counts. Raises CannotInfer.
    """
    with ThreadPoolExecutor(threads) as pool:

        def run(batch: Callable[[], Sequence[Tensor]], count: int) -> None:
            list(pool.map(lambda _: compiled.infer(batch()), range(count)))

        together, apart = best_times(
            lambda: run(lambda: stack([row] * _ROWS), _BATCHES),
            lambda: run(lambda: row, _BATCHES * _ROWS),
        )
    return together < _STACKING_WINS_BELOW * apart


def static_wins(
    static: Compilation,
    dynamic: Compilation,
    row: Sequence[Tensor],
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> bool:
    """Whether a shape's own compilation is the faster one. Raises CannotInfer.

    Each pair of inferences is made `alone`: the dynamic compilation is in use where the static one
    is not yet, and requests that wait for the streams of one and for the cores of the other would
    decide who wins. Others have their turn between the pairs, none of which begins after a second.
    """
    dynamic_s, static_s = best_times(
        lambda: dynamic.infer(row),
        lambda: static.infer(row),
        rounds=_PAIRS,
        alone=alone,
        longest_s=_MEASURING_S,
        swapping=True,
    )
    return static_s < _STATIC_WINS_BELOW * dynamic_s


def building_dominates(compiled: Compilation, new: Iterable[Sequence[Tensor]]) -> bool:
    """Whether an inference at a shape for the first time takes far longer than the next one.

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
    matters, dominates = _BUILDING_MATTERS_FROM_S, (_BUILDING_DOMINATES_ABOVE - 1) * again_s
    return bool(new_s - again_s >= max(matters, dominates))


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


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
