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

from deployments.model.first_sight import Compilation
from deployments.model.runtime import CompiledShape
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
_QUICK_WINS_BELOW: Final = 0.8
_NEW_SHAPES: Final = 3


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

    Both run the same rows in as many threads as there are infer requests. Raises CannotInfer.
    """
    stacked = stack([row] * _ROWS)
    with ThreadPoolExecutor(threads) as pool:

        def run(batch: Sequence[Tensor], count: int) -> None:
            list(pool.map(lambda _: compiled.infer(batch), range(count)))

        together, apart = best_times(
            lambda: run(stacked, _BATCHES), lambda: run(row, _BATCHES * _ROWS)
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


def quicker_at_first_sight(
    usual: CompiledShape,
    compile_quick: Callable[[], CompiledShape],
    new: Iterable[Sequence[Tensor]],
) -> CompiledShape | None:
    """The quick compilation if shapes that it never saw are faster on it, else None.

    `new` are tensors of shapes that `usual` has not run; four are taken, where there are fewer the
    answer is None. Where an inference itself takes longest, nothing is compiled. Raises
    CannotReshape and CannotInfer.
    """
    shapes = iter(new)
    first = next(shapes, None)
    if first is None:
        return None
    new_s, again_s = (_seconds(partial(usual.infer, first)) for _ in range(2))
    if new_s < _BUILDING_DOMINATES_ABOVE * again_s:
        return None
    quick = compile_quick()
    quick.infer(first)  # the first one of all takes longer
    pairs = [
        (_seconds(partial(usual.infer, row)), _seconds(partial(quick.infer, row)))
        for row in islice(shapes, _NEW_SHAPES)
    ]
    if len(pairs) < _NEW_SHAPES:
        return None
    usual_s, quick_s = (median(times) for times in zip(*pairs, strict=True))
    return quick if quick_s < _QUICK_WINS_BELOW * usual_s else None


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
