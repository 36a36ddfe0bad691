"""Measures inferences from when they have a stream of the device.

A replica passes OpenVINO more inferences than it runs at once, so that it always has the next one.
The surplus waits inside OpenVINO, and the time of a call includes that wait.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Turn:
    """An inference, with the nanoseconds since when it has a stream or waits for one."""

    since_ns: int


class StreamTimes:
    """The times of the inferences of one compilation, which has its own `streams`; thread-safe.

    OpenVINO begins waiting inferences in the order of their arrival. If one ends before its turn,
    OpenVINO did not, and its time counts from its arrival.
    """

    def __init__(self, streams: int, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns
        self._idle = streams
        self._waiting: deque[Turn] = deque()
        self._mutex = threading.Lock()

    def begin(self) -> Turn:
        with self._mutex:
            turn = Turn(self._clock_ns())
            if self._idle:
                self._idle -= 1
            else:
                self._waiting.append(turn)
        return turn

    def end(self, turn: Turn) -> int:
        """The nanoseconds that the inference took; the longest-waiting one gets its stream."""
        with self._mutex:
            now = self._clock_ns()
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().since_ns = now
            else:
                self._idle += 1
        return now - turn.since_ns
