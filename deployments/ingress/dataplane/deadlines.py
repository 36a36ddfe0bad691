"""Deadlines of requests, with one timer for all of them.

A timer for each request would cost more than the rest of its queueing. Most requests have the same
timeout, so the first to come is the first to time out, and the timer is seldom set again.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from deployments import timing


class Deadlines:
    """The deadlines of one event loop's requests."""

    def __init__(self) -> None:
        self._pending: dict[asyncio.Future[Any], tuple[float, Callable[[], Exception]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(
        self, result: "asyncio.Future[Any]", deadline: float, late: Callable[[], Exception]
    ) -> None:
        """Fails `result` with the error of `late` at `deadline` (monotonic clock).

        Does nothing if `result` is done or removed by then.
        """
        self._pending[result] = deadline, late
        if deadline < self._next:
            self._set(deadline)

    def remove(self, result: "asyncio.Future[Any]") -> None:
        """Removes a result; each added one is kept until this call."""
        del self._pending[result]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, deadline: float) -> None:
        self.close()
        self._next = deadline
        wait_s = max(timing.TIMER_RESOLUTION_S, deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._end)

    def _end(self) -> None:
        """Fails all results that are late, and sets the timer for the next deadline."""
        now = time.monotonic() + timing.TIMER_RESOLUTION_S
        self._timer, self._next = None, math.inf
        for result, (deadline, late) in self._pending.items():
            if not result.done() and deadline <= now:
                result.set_exception(late())
        left = [at for result, (at, _) in self._pending.items() if not result.done()]
        if left:
            self._set(min(left))
