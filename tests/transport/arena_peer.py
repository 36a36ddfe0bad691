"""Another process, for tests of shared memory, controlled by a test until it is killed.

Also has functions for this process's own arenas.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from deployments.tensors import Array
from deployments.transport.arena import Arena, ArenaAddress, PeerArenas


class _Peer:
    """The methods that run in the other process."""

    def __init__(self) -> None:
        self._peers = PeerArenas()
        self._held: list[Array] = []

    def own(self, size: int, content: bytes) -> tuple[ArenaAddress, int]:
        """Makes an arena with this content; returns the address and the content's offset."""
        self.arena = Arena(size)
        space = self.arena.allocate(len(content))
        assert space is not None
        space[:] = np.frombuffer(content, np.uint8)
        self._held.append(space)
        return self.arena.address, self.arena.offset_of(space) or 0

    def lend(self, content: bytes, holder_pid: int) -> int:
        return lend(self.arena, content, holder_pid)

    def free_bytes(self) -> int:
        return self.arena.free_bytes

    def read(self, arena: ArenaAddress, offset: int, nbytes: int) -> bytes:
        return self._peers.view(arena, offset, nbytes).tobytes()

    def write(self, arena: ArenaAddress, offset: int, content: bytes) -> None:
        view = self._peers.view(arena, offset, len(content))
        view[:] = np.frombuffer(content, np.uint8)

    def hold(self, arena: ArenaAddress, offset: int, nbytes: int) -> bytes:
        """Takes a lease, and keeps views of its views."""
        whole = self._peers.view_lease(arena, offset, nbytes)
        self._held += [whole[1:].view(np.int8)[1:], np.frombuffer(whole.data[2:], np.uint8)]
        return whole.tobytes()

    def release(self) -> None:
        self._held.pop()


class PeerProcess:
    """The other process: calls `_Peer`'s methods, and kills it."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe
        self.pid: int = process.pid

    def __call__(self, method: str, *arguments: object) -> Any:
        self._pipe.send((method, arguments))
        return self._pipe.recv()

    def kill(self) -> None:
        """Kills the process, and returns when it is gone."""
        self._process.kill()
        self._process.join()

    def kill_without_reaping(self) -> None:
        """Kills the process, and returns when it is a zombie."""
        self._process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def peer_process() -> Iterator[PeerProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    peer = PeerProcess(process, ours)
    try:
        yield peer
    finally:
        peer.kill()
        process.close()
        ours.close()


def _serve(pipe: Connection) -> None:
    peer = _Peer()
    while True:
        method, arguments = pipe.recv()
        pipe.send(getattr(peer, method)(*arguments))


def allocated(arena: Arena, nbytes: int, lead: int = 0) -> Array:
    array = arena.allocate(nbytes, lead)
    assert array is not None
    return array


def leased(arena: Arena, nbytes: int, holder_pid: int) -> Array:
    array = arena.lendable(nbytes)
    assert array is not None
    assert arena.offset_of(array) == arena.lend(array, holder_pid)
    return array


def place(arena: Arena, array: Array) -> int:
    offset = arena.offset_of(array)
    assert offset is not None
    return offset


def lend(arena: Arena, content: bytes, holder_pid: int) -> int:
    """Leases content to a process and drops it here, as after a reply; returns its offset."""
    array = leased(arena, len(content), holder_pid)
    array[:] = np.frombuffer(content, np.uint8)
    return place(arena, array)
