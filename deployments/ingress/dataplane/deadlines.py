"""The ends of requests' times, with one timer for all of them.

A timer for each costs a request more than all else in its queue. Most requests have the same time,
so the one that came first is late first, and the timer is seldom set anew.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from deployments import timing


class Deadlines:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._pending: dict[asyncio.Future[Any], tuple[float, Callable[[], Exception]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(
        self, result: "asyncio.Future[Any]", deadline: float, late: Callable[[], Exception]
    ) -> None:
        """Ends `result` with what `late` returns at `deadline` (monotonic clock), unless it has
        ended or been removed before."""
        self._pending[result] = deadline, late
        if deadline < self._next:
            self._set(deadline)

    def remove(self, result: "asyncio.Future[Any]") -> None:
        """To be called for each that was added: it is kept until then."""
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
        """Ends all that are late, and waits for the next."""
        now = time.monotonic() + timing.TIMER_RESOLUTION_S
        self._timer, self._next = None, math.inf
        for result, (deadline, late) in self._pending.items():
            if not result.done() and deadline <= now:
                result.set_exception(late())
        left = [at for result, (at, _) in self._pending.items() if not result.done()]
        if left:
            self._set(min(left))
