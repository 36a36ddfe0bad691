"""Which shapes a compilation ran, and so which it can run to get over a failure.

Where an inference fails at one node, the CPU plugin has already given the nodes before it that
request's shapes, but takes them for those of the last request that succeeded: until one of other
shapes comes, requests with the shapes of that one fail at the same node, whatever is in them.
"""

import threading
from collections.abc import Sequence
from math import prod
from typing import Final, TypeAlias

Shapes: TypeAlias = tuple[tuple[int, ...], ...]

_REMEMBERED: Final = 64
_TRIED: Final = 3


class GoodShapes:
    """The last shapes at which a compilation succeeded. For several threads at once."""

    def __init__(self, open_dims: Sequence[Sequence[bool]]) -> None:
        """`open_dims` says of each dimension of each input whether its size is open."""
        self._open = open_dims
        self._last: dict[Shapes, None] = {}  # oldest first
        self._lock = threading.Lock()

    @property
    def can_vary(self) -> bool:
        return any(map(any, self._open))

    def __contains__(self, shapes: Shapes) -> bool:
        with self._lock:
            return shapes in self._last

    def add(self, shapes: Shapes) -> None:
        with self._lock:
            self._last.pop(shapes, None)
            self._last[shapes] = None
            if len(self._last) > _REMEMBERED:
                del self._last[next(iter(self._last))]

    def others(self, shapes: Shapes) -> list[Shapes]:
        """A few others to try, in this order: the smallest that succeeded, then guesses; twice."""
        with self._lock:
            good = sorted((other for other in self._last if other != shapes), key=_elements)
        guesses = [self._changed(shapes, add, times) for times, add in ((1, 1), (2, 0), (1, -1))]
        return 2 * [*good, *guesses][:_TRIED]

    def _changed(self, shapes: Shapes, add: int, times: int) -> Shapes:
        return tuple(
            tuple(
                max(1, size * times + add) if is_open else size
                for size, is_open in zip(shape, opened, strict=True)
            )
            for shape, opened in zip(shapes, self._open, strict=True)
        )


def _elements(shapes: Shapes) -> int:
    return sum(map(prod, shapes))
