"""Memory that two processes of one node share, and that no killed process can leak.

An arena is an anonymous file in memory (`memfd_create(2)`). It has no name that a killed process
could leave behind: the kernel frees it with the last process that holds or maps it. A peer opens it
through `/proc/<pid>/fd/<fd>`. An allocation lives as long as an array on it.

A *lease* is a region lent to a peer. The owner cannot see when the peer releases it, so the first
word of the region is the lease's state. The peer sets it; the owner checks it when it allocates.
"""

import bisect
import mmap
import os
import secrets
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from deployments import timing
from deployments.tensors import Array

ALIGNMENT: Final = 64
_PAGE: Final = 4096
_TOKEN_BYTES: Final = 16
_SENT, _HELD, _DONE = 1, 2, 3


class ArenaUnreachable(Exception):
    """Raised when this process cannot map a peer's arena, mostly because it is on another node."""


class ArenaAddress(NamedTuple):
    """How a process on the same node finds an arena; `token` proves that it is the right one."""

    pid: int
    fd: int
    size: int
    token: bytes


class _Region:
    """Keeps a region of shared memory alive for the arrays on it.

    Every array and view on the region refers to this object, directly or not. So it dies with the
    last of them, in any thread, and calls `over` then. `start` is the address of `mapping` in this
    process.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_mapping", "over")

    def __init__(self, mapping: mmap.mmap, start: int, offset: int, nbytes: int) -> None:
        self.over: Callable[[], None] | None = None
        self._mapping = mapping
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (start + offset, False),
        }

    def __del__(self) -> None:
        if self.over is not None:
            self.over()


def birth(pid: int) -> bytes | None:
    """When the process started, None if it is gone. It distinguishes processes of the same pid.

    A zombie counts as gone, because it touches no memory. Raises OSError if the kernel does not
    answer, for example with too many open files.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc_pid_stat(5): the name, in parentheses, may hold anything; the state is next.
    state, *rest = stat.rpartition(b") ")[2].split()
    return None if state in b"ZX" else rest[18]


def _start_address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


@dataclass(slots=True)
class _FreeList:
    """First-fit allocation over the free stretches, sorted by start, merged when they touch.

    First fit uses the same low pages again, which are in the caches and backed by memory already.
    So an arena costs its peak usage, not its size.
    """

    stretches: list[tuple[int, int]]  # (start, end)

    def take(self, nbytes: int) -> int | None:
        for index, (start, end) in enumerate(self.stretches):
            if end - start >= nbytes:
                if end - start == nbytes:
                    del self.stretches[index]
                else:
                    self.stretches[index] = (start + nbytes, end)
                return start
        return None

    def give(self, start: int, nbytes: int) -> None:
        end = start + nbytes
        index = bisect.bisect(self.stretches, (start, end))
        if index < len(self.stretches) and self.stretches[index][0] == end:
            end = self.stretches.pop(index)[1]
        if index and self.stretches[index - 1][1] == start:
            start = self.stretches.pop(index - 1)[0]
            index -= 1
        self.stretches.insert(index, (start, end))


@dataclass(slots=True)
class _Lease:
    state: Array
    holder_pid: int
    holder_birth: bytes | None
    since: float = field(default_factory=time.monotonic)

    def over(self, births: Mapping[int, bytes | None]) -> bool:
        state = int(self.state[0])
        if state == _DONE:
            return True
        if state == _SENT and time.monotonic() - self.since > timing.LOST_LEASE_S:
            self.state[0] = _DONE  # the reply is lost; if it still arrives, it is refused
            return True
        return self.holder_birth is None or births[self.holder_pid] != self.holder_birth


class Arena:
    """Shared memory that this process owns. Thread-safe."""

    def __init__(self, size: int) -> None:
        size = -(-size // _PAGE) * _PAGE
        self._fd = os.memfd_create("anyshape", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, size)
        self._mapping = mmap.mmap(self._fd, size)
        self._start = _start_address(self._mapping)
        self._size = size
        self._free = _FreeList([(_PAGE, size)])
        self._returned: list[tuple[int, int]] = []
        self._lendable: weakref.WeakValueDictionary[int, _Region] = weakref.WeakValueDictionary()
        self._leases: list[_Lease] = []
        self._lock = threading.Lock()
        token = secrets.token_bytes(_TOKEN_BYTES)
        self._mapping[:_TOKEN_BYTES] = token
        self.address = ArenaAddress(os.getpid(), self._fd, size, token)
        weakref.finalize(self, os.close, self._fd).atexit = False

    @staticmethod
    def supported() -> bool:
        return sys.platform == "linux"

    @property
    def size(self) -> int:
        """The bytes that an empty arena can allocate."""
        return self._size - _PAGE

    @property
    def used_bytes(self) -> int:
        return self.size - self.free_bytes

    @property
    def free_bytes(self) -> int:
        with self._lock:
            self._collect()
            return sum(end - start for start, end in self._free.stretches)

    def allocate(self, nbytes: int, lead: int = 0) -> Array | None:
        """Allocates `nbytes` as a uint8 vector whose byte `lead` is aligned; None if full.

        The memory has the content that the last user left. It returns to the arena when the last
        array on it is gone.
        """
        region = self._allocated(nbytes, lead)
        return None if region is None else np.asarray(region)

    def _allocated(self, nbytes: int, lead: int) -> _Region | None:
        skip = -lead % ALIGNMENT
        taken = -(-(nbytes + skip) // ALIGNMENT) * ALIGNMENT or ALIGNMENT
        with self._lock:
            self._collect()
            if (start := self._free.take(taken)) is None:
                return None
        region = _Region(self._mapping, self._start, start + skip, nbytes)
        region.over = partial(self._returned.append, (start, taken))  # append is atomic
        return region

    def lendable(self, nbytes: int) -> Array | None:
        """Like `allocate`, but `lend` can lend the memory."""
        region = self._allocated(ALIGNMENT + nbytes, lead=ALIGNMENT)
        if region is None:
            return None
        space = np.asarray(region)[ALIGNMENT:]
        offset = self.offset_of(space)
        assert offset is not None
        self._lendable[offset] = region
        return space

    def lend(self, array: Array, holder_pid: int) -> int | None:
        """Lends an array to a process of this node; returns its offset, None if not `lendable`.

        An array can be lent once. It returns to the arena when that process gives it back or dies.
        Raises OSError if the kernel does not answer whether the process lives.
        """
        offset = self.offset_of(array)
        region = None if offset is None else self._lendable.pop(offset, None)
        if region is None:
            return None
        holder_birth = birth(holder_pid)
        state = np.asarray(region)[:8].view(np.uint64)
        state[0] = _SENT
        with self._lock:
            self._leases.append(_Lease(state, holder_pid, holder_birth))
        return offset

    def withdraw(self, offset: int) -> None:
        """Ends the lease of the bytes at `offset`, for an answer that will not be sent."""
        struct.pack_into("=Q", self._mapping, offset - ALIGNMENT, _DONE)

    def offset_of(self, array: Array) -> int | None:
        """The offset of the array's data in the arena, None if the data is elsewhere."""
        start: int = array.__array_interface__["data"][0]  # twice as fast as `array.ctypes`
        offset = start - self._start
        return offset if 0 <= offset < self._size else None

    def _collect(self) -> None:
        if self._leases:
            with suppress(OSError):  # the next call finds leases that are over
                births = {pid: birth(pid) for pid in {lease.holder_pid for lease in self._leases}}
                self._leases = [lease for lease in self._leases if not lease.over(births)]
        while self._returned:
            self._free.give(*self._returned.pop())


@dataclass(frozen=True, slots=True)
class _Mapping:
    memory: mmap.mmap
    start: int
    owner_birth: bytes | None


class PeerArenas:
    """The arenas of other processes, mapped into this one."""

    def __init__(self) -> None:
        self._mappings: dict[ArenaAddress, _Mapping] = {}

    def reach(self, arena: ArenaAddress) -> None:
        """Maps the arena. Raises ArenaUnreachable."""
        if arena not in self._mappings:
            self._attach(arena)

    def view(self, arena: ArenaAddress, offset: int, nbytes: int) -> Array:
        """The bytes at `offset`, as a writable view. Raises ArenaUnreachable."""
        return np.asarray(self._region(arena, offset, nbytes))

    def view_lease(self, arena: ArenaAddress, offset: int, nbytes: int) -> Array:
        """Like `view`, of a lease. The lease ends when the last array on it is gone."""
        region = self._region(arena, offset, nbytes)
        state = self.view(arena, offset - ALIGNMENT, 8).view(np.uint64)
        if state[0] != _SENT:
            raise ArenaUnreachable(f"process {arena.pid} has no lease at {offset}")
        state[0] = _HELD
        region.over = partial(state.__setitem__, 0, _DONE)
        return np.asarray(region)

    def _region(self, arena: ArenaAddress, offset: int, nbytes: int) -> _Region:
        mapping = self._mappings.get(arena) or self._attach(arena)
        if not 0 <= offset <= offset + nbytes <= arena.size:
            raise ArenaUnreachable(
                f"{nbytes} bytes at {offset} are outside the arena of {arena.size} bytes"
            )
        return _Region(mapping.memory, mapping.start, offset, nbytes)

    def _attach(self, arena: ArenaAddress) -> _Mapping:
        try:
            self._drop_dead()
            owner_birth = birth(arena.pid)
            memory = _mapped(arena)
        except OSError as error:
            raise ArenaUnreachable(f"process {arena.pid}: {error.strerror}") from None
        if memory[:_TOKEN_BYTES] != arena.token:
            raise ArenaUnreachable(
                f"process {arena.pid} has another arena at descriptor {arena.fd}"
            )
        self._mappings[arena] = _Mapping(memory, _start_address(memory), owner_birth)
        return self._mappings[arena]

    def _drop_dead(self) -> None:
        """Drops arenas whose owner is gone, so that the kernel can free their memory."""
        births = {arena.pid: birth(arena.pid) for arena in self._mappings}
        self._mappings = {
            arena: mapping
            for arena, mapping in self._mappings.items()
            if mapping.owner_birth is not None and births[arena.pid] == mapping.owner_birth
        }


def _mapped(arena: ArenaAddress) -> mmap.mmap:
    fd = os.open(f"/proc/{arena.pid}/fd/{arena.fd}", os.O_RDWR)
    try:
        if os.fstat(fd).st_size != arena.size:
            raise ArenaUnreachable(f"process {arena.pid} has another file at descriptor {arena.fd}")
        return mmap.mmap(fd, arena.size)
    finally:
        os.close(fd)
