"""Waiting in threads, for what has no event to wait for."""

import time
from collections.abc import Callable

from tests.loops import PATIENCE_S


def until(condition: Callable[[], bool]) -> None:
    """For what other threads and processes do."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)
