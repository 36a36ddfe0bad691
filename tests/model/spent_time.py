"""A clock that only tests advance, for decisions by measured times (`spent_time`)."""

import threading


class Clock:
    """Shows the time that tests have spent, so that a stall of the machine does not count."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds


CLOCK = Clock()
