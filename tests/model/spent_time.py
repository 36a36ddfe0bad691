"""Time that passes only where it is spent, for what is decided by measuring (`spent_time`)."""

import threading


class Clock:
    """Shows the time that was spent, not the time of day: a stall of the machine is none of it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds


CLOCK = Clock()
