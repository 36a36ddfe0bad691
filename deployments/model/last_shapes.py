"""The shapes of the last inferences."""

import threading
from typing import Final, TypeAlias

Shapes: TypeAlias = tuple[tuple[int, ...], ...]

_REMEMBERED: Final = 64


class LastShapes:
    """The last 64 different ones that were added. For several threads at once."""

    def __init__(self) -> None:
        self._last: dict[Shapes, None] = {}  # oldest first
        self._lock = threading.Lock()

    def __contains__(self, shapes: Shapes) -> bool:
        with self._lock:
            return shapes in self._last

    def add(self, shapes: Shapes) -> bool:
        """Whether they were not among them."""
        with self._lock:
            new = shapes not in self._last
            self._last.pop(shapes, None)
            self._last[shapes] = None
            if len(self._last) > _REMEMBERED:
                del self._last[next(iter(self._last))]
        return new

    def all(self) -> list[Shapes]:
        """Oldest first."""
        with self._lock:
            return list(self._last)
