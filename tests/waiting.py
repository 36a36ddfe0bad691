"""Polls conditions that have no event to wait for, in threads."""

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
    """Waits for a condition that other threads or processes cause."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {patience_s:.0f} s: {what}"
        time.sleep(every_s)
