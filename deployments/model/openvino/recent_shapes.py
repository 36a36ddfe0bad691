"""The shapes of the last inferences."""

import threading
from typing import TypeAlias

Shapes: TypeAlias = tuple[tuple[int, ...], ...]


class LastShapes:
    """The last `count` different ones that were added. For several threads at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._last: dict[Shapes, None] = {}  # oldest first
        self._lock = threading.Lock()

    def __contains__(self, shapes: Shapes) -> bool:
        with self._lock:
            return shapes in self._last

    def latest(self, most: int) -> list[Shapes]:
        """So many at most, oldest first."""
        with self._lock:
            return list(self._last)[-most:]

    def add(self, shapes: Shapes) -> None:
        with self._lock:
            self._last.pop(shapes, None)
            self._last[shapes] = None
            if len(self._last) > self._count:
                del self._last[next(iter(self._last))]
