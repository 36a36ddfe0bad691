import contextlib
import itertools
import os
import queue
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from deployments.tensors import Array
from deployments.transport.arena import ALIGNMENT, Arena
from tests.effort import examples
from tests.transport.arena_peer import allocated, lend, place

SIZE = 1 << 16

pytestmark = pytest.mark.skipif(not Arena.supported(), reason="arenas are Linux's")


@pytest.fixture
def arena() -> Arena:
    return Arena(SIZE)


VIEWS: list[Callable[[Array], Array]] = [
    lambda array: array[1:][:-1][1:],
    lambda array: array.view(np.int8)[None, :, None].view(np.uint8)[0, 1:, 0],
    lambda array: np.frombuffer(array.data[1:], np.uint8),
    lambda array: np.asarray(memoryview(array.data)),
]


class Allocation(RuleBasedStateMachine):
    """Every region in use has its own fill, which must stay as it is until the region dies."""

    handles = Bundle("handles")  # and not the arrays, which Hypothesis would keep alive

    @initialize()
    def make(self) -> None:
        self.arena = Arena(SIZE)
        self.start = self.arena.free_bytes
        self.arrays: dict[int, tuple[Array, int]] = {}  # by handle, with the region's fill
        self.regions: dict[int, tuple[int, int]] = {}  # by fill, from where to where
        self.numbers = itertools.count(1)

    @rule(target=handles, nbytes=st.integers(0, SIZE // 3), lead=st.integers(0, 200))
    def allocate(self, nbytes: int, lead: int) -> int:
        array = self.arena.allocate(nbytes, lead)
        if array is None:
            assert max(self.gaps()) < nbytes + 4 * ALIGNMENT
            return 0
        assert nbytes == array.nbytes
        assert (array.ctypes.data + lead) % ALIGNMENT == 0
        start = place(self.arena, array)
        for other_start, other_end in self.regions.values():
            assert start + nbytes <= other_start or other_end <= start
        handle = next(self.numbers)
        array[:] = handle
        self.regions[handle] = start, start + nbytes
        self.arrays[handle] = array, handle
        return handle

    @rule(target=handles, source=handles, kind=st.sampled_from(VIEWS))
    def view(self, source: int, kind: Callable[[Array], Array]) -> int:
        if source not in self.arrays:
            return 0
        array, fill = self.arrays[source]
        handle = next(self.numbers)
        self.arrays[handle] = kind(array), fill
        return handle

    @rule(handle=consumes(handles))
    def drop(self, handle: int) -> None:
        if handle not in self.arrays:
            return
        array, fill = self.arrays.pop(handle)
        assert (array == fill).all()
        if all(other != fill for _, other in self.arrays.values()):
            del self.regions[fill]

    @invariant()
    def what_is_not_in_use_is_free(self) -> None:
        used = sum(end - start for start, end in self.regions.values())
        taken = self.start - self.arena.free_bytes
        assert used <= taken <= used + 2 * ALIGNMENT * len(self.regions)

    def gaps(self) -> list[int]:
        edges = sorted(self.regions.values())
        starts = [SIZE - self.start, *(end for _, end in edges)]
        ends = [*(start for start, _ in edges), SIZE]
        return [end - start for start, end in zip(starts, ends, strict=True)]


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("lead", [0, 1, 63, 64, 65, 1000])
def test_the_byte_behind_the_lead_is_aligned(arena: Arena, lead: int) -> None:
    array = allocated(arena, 2000, lead)
    assert array[lead:].ctypes.data % ALIGNMENT == 0


def test_a_full_arena_says_none_and_goes_on_when_something_is_returned(arena: Arena) -> None:
    first = allocated(arena, arena.free_bytes - 1000)
    assert arena.allocate(2000) is None
    assert arena.allocate(1 << 62) is None
    second = allocated(arena, 900)
    del first
    assert arena.allocate(2000) is not None
    del second


def test_what_was_returned_in_pieces_can_be_had_in_one(arena: Arena) -> None:
    whole = arena.free_bytes
    pieces = [allocated(arena, 1000) for _ in range(40)]
    for order in (slice(0, None, 3), slice(1, None, 2), slice(None, None, -1)):
        del pieces[order]
    assert whole == arena.free_bytes
    assert whole == allocated(arena, whole).nbytes


def test_an_arena_of_the_least_size_has_room_for_nothing() -> None:
    arena = Arena(1)
    assert 0 == arena.free_bytes
    assert arena.allocate(1) is None


def test_an_array_from_elsewhere_has_no_place(arena: Arena) -> None:
    assert arena.offset_of(np.zeros(8, np.uint8)) is None
    assert arena.offset_of(allocated(Arena(SIZE), 8)) is None


def test_an_array_outlives_its_arena_whose_file_is_closed() -> None:
    arena = Arena(SIZE)
    array, fd = allocated(arena, 8), arena.address.fd
    os.fstat(fd)
    del arena
    array[:] = 7
    assert [7] * 8 == array.tolist()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_file_has_no_name_that_could_be_left_behind(arena: Arena) -> None:
    file = os.fstat(arena.address.fd)
    assert 0 == file.st_nlink
    assert SIZE == file.st_size
    assert os.stat("/dev/shm").st_dev != file.st_dev
    assert not os.get_inheritable(arena.address.fd)


@pytest.mark.timeout(10)
def test_an_array_may_die_while_the_arena_is_locked(arena: Arena) -> None:
    whole, array = arena.free_bytes, allocated(arena, 100)
    with arena._lock:  # as by the garbage collector, in the midst of an allocation
        del array
    assert whole == arena.free_bytes


class GuardedArena(Arena):
    def __getattribute__(self, name: str) -> Any:
        if name in ("_free", "_leases"):
            assert self._lock.locked(), f"{name} is used without the lock"
        return super().__getattribute__(name)


def test_what_threads_share_is_used_under_the_lock() -> None:
    arena = GuardedArena(SIZE)
    whole = arena.free_bytes
    array = allocated(arena, 100)
    arena.withdraw(lend(arena, b"some", os.getpid()))
    assert arena.allocate(SIZE) is None
    del array
    assert whole == arena.free_bytes


def test_threads_allocate_and_release_without_meeting(arena: Arena) -> None:
    whole, handed_on = arena.free_bytes, queue.SimpleQueue[tuple[Array, int]]()

    def work(number: int) -> None:
        sizes, own = random.Random(number), list[Array]()
        for _ in range(200):
            if (array := arena.allocate(sizes.randint(0, 5000))) is not None:
                array[:] = number
                own.append(array)
            while len(own) > 2:
                handed_on.put((own.pop(0), number))
            with contextlib.suppress(queue.Empty):
                foreign, fill = handed_on.get_nowait()
                assert (foreign == fill).all()
                del foreign
            array = arena.lendable(10)
            if array is not None:
                assert arena.lend(array, os.getpid()) == place(arena, array)
                arena.withdraw(place(arena, array))
            assert 0 <= arena.free_bytes <= whole

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(work, number) for number in range(1, 5)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    while not handed_on.empty():
        array, fill = handed_on.get()
        assert (array == fill).all()
        del array
    assert whole == arena.free_bytes
