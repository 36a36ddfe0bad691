"""What pays is measured, not assumed: compilations are timed against each other.

Others use the machine meanwhile, so the works take turns and the least time of each counts.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from deployments.model.runtime import CompiledShape
from deployments.model.stacking import stack
from deployments.tensors import Tensor

_ROUNDS: Final = 3
_ROWS: Final = 4
_BATCHES: Final = 4
_STACKING_WINS_BELOW: Final = 0.9
_STATIC_WINS_BELOW: Final = 0.97


def best_times(*works: Callable[[], object], rounds: int = _ROUNDS) -> list[float]:
    """The least time of each work, in seconds, over so many rounds after one that is not timed."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, mine in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            if number:
                mine.append(time.perf_counter() - started)
    return [min(mine) for mine in times]


def stacking_wins(compiled: CompiledShape, row: Sequence[Tensor], threads: int) -> bool:
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


def static_wins(static: CompiledShape, dynamic: CompiledShape, row: Sequence[Tensor]) -> bool:
    """Whether a shape's own compilation is the faster one. Raises CannotInfer."""
    alone, shared = best_times(lambda: static.infer(row), lambda: dynamic.infer(row))
    return alone < _STATIC_WINS_BELOW * shared
