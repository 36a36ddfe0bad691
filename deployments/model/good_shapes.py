"""Which shapes a compilation ran, and so which it can run to get over a failure.

Where an inference fails at one node, the CPU plugin has already given the nodes before it that
request's shapes, but takes them for those of the last request that succeeded: until one of other
shapes comes, requests with the shapes of that one fail at the same node, whatever is in them.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

from deployments.model.last_shapes import LastShapes, Shapes

_TRIED: Final = 3


class GoodShapes(LastShapes):
    """The last shapes at which a compilation succeeded."""

    def __init__(self, open_dims: Sequence[Sequence[bool]]) -> None:
        """`open_dims` says of each dimension of each input whether its size is open."""
        super().__init__()
        self._open = open_dims

    @property
    def can_vary(self) -> bool:
        return any(map(any, self._open))

    def others(self, shapes: Shapes) -> list[Shapes]:
        """A few others to try, in this order: the smallest that succeeded, then guesses; twice."""
        good = sorted((other for other in self.all() if other != shapes), key=_elements)
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
