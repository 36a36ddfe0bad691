"""How long inferences take from when they have a stream of the device.

A replica hands OpenVINO more inferences than it runs at once, so that it always has the next one.
Those that are one too many wait inside of OpenVINO, which the time of a call does not tell apart.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Turn:
    """One inference: since when it has a stream, or has waited for one. In nanoseconds."""

    since_ns: int


class StreamTimes:
    """Follows the inferences of one compilation, which has `streams` of its own.

    OpenVINO begins what waits in the order in which it came. One that ends before its turn shows
    that this was not so: it counts from when it came. For worker threads.
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
        """The nanoseconds that the inference took; whoever waits longest has its stream now."""
        with self._mutex:
            now = self._clock_ns()
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().since_ns = now
            else:
                self._idle += 1
        return now - turn.since_ns
