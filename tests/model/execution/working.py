"""Work for an execution, which a test ends."""

import asyncio
import threading
from typing import Final

PATIENCE_S: Final = 10


class Work:
    """Work in a thread that runs until the test ends it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.began.set()
        assert self.end.wait(PATIENCE_S)
        self.ended = True
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.wait, PATIENCE_S)
