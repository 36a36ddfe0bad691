"""The threads in which shapes are compiled."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_NICENESS: Final = 10


class Compilers:
    """`waited_for` compiles what requests wait for, `background` what nobody waits for, which
    gives way to all else that wants the cores."""

    def __init__(self) -> None:
        self.foreground = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.background = ThreadPoolExecutor(
            1, thread_name_prefix="compile-background", initializer=_give_way
        )

    def close(self) -> None:
        """Ends after the compilation that is under way. Blocks."""
        self.foreground.shutdown()
        self.background.shutdown()


def _give_way() -> None:
    """Linux lowers the priority of this thread alone; elsewhere that cannot be done."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
