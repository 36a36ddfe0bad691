"""The shapes of the latest inferences."""

import threading

from deployments.inference import InputShapes


class RecentShapes:
    """The latest `count` different shapes that were added; thread-safe."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._last: dict[InputShapes, None] = {}  # oldest first
        self._lock = threading.Lock()

    def __contains__(self, shapes: InputShapes) -> bool:
        with self._lock:
            return shapes in self._last

    def latest(self, most: int) -> list[InputShapes]:
        """The latest shapes, at most `most`, oldest first."""
        with self._lock:
            return list(self._last)[-most:]

    def add(self, shapes: InputShapes) -> None:
        with self._lock:
            self._last.pop(shapes, None)
            self._last[shapes] = None
            if len(self._last) > self._count:
                del self._last[next(iter(self._last))]
