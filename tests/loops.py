"""Runs tests on the event loops that Ray may use, and checks that they leave nothing behind."""

import asyncio
import contextlib
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import uvloop

from tests.open_files import open_files

PATIENCE_S = 20.0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on asyncio's event loop and on uvloop, which Ray's replicas use."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            with closed(new_loop()) as loop:
                loop.run_until_complete(_leaving_nothing(test(**arguments)))

    return run


@contextlib.contextmanager
def closed(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.AbstractEventLoop]:
    """Closes the loop at the end, in a thread.

    Once in some fifty runs of all tests, uvloop's `close` hung in libuv, where no timeout ends it,
    although `_leaving_nothing` had found nothing.
    """
    try:
        yield loop
    finally:
        closing = threading.Thread(target=loop.close, daemon=True)
        closing.start()
        closing.join(PATIENCE_S)
        if closing.is_alive():
            print("a loop of uvloop does not close", file=sys.stderr)


async def until(condition: Callable[[], bool]) -> None:
    """Polls a condition that has no event to await."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.001)


async def settled() -> None:
    """Lets the loop run until nothing is left to do, except for events from the kernel."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _leaving_nothing(test: Awaitable[None]) -> None:
    """Checks that a test leaves no task, no socket and no unretrieved exception."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    await asyncio.sleep(0)
    sockets = _sockets()
    await test
    await until(lambda: sockets == _sockets() and 1 == len(asyncio.all_tasks()))
    gc.collect(1)  # older generations are not from this test, and large
    assert [] == complaints


def _sockets() -> set[str]:
    found = set()
    for fd in open_files():
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {target for target in found if target.startswith("socket:")}
