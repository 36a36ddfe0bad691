"""The threads that compile shapes."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_NICENESS: Final = 10


class Compilers:
    """Two threads: `foreground` compiles shapes that requests wait for, `background` the others.

    The background thread has a lower priority than all other threads.
    """

    def __init__(self) -> None:
        self.foreground = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.background = ThreadPoolExecutor(
            1, thread_name_prefix="compile-background", initializer=_lower_priority
        )

    def close(self) -> None:
        """Stops the threads. Blocks until the running compilation has finished."""
        self.foreground.shutdown()
        self.background.shutdown()


def _lower_priority() -> None:
    """Lowers the priority of this thread, on Linux only: elsewhere a thread has none of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
