"""Waiting in threads, for what has no event to wait for."""

import time
from collections.abc import Callable

from tests.loops import PATIENCE_S


def until(
    condition: Callable[[], bool],
    what: str = "it happens",
    *,
    patience_s: float = PATIENCE_S,
    every_s: float = 0.005,
) -> None:
    """For what other threads and processes do."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {patience_s:.0f} s in vain until {what}"
        time.sleep(every_s)
