import errno
import mmap
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.transport.arena import ALIGNMENT, Arena, ArenaAddress, ArenaUnreachable, PeerArenas
from tests.open_files import open_files
from tests.transport.arena_peer import PeerProcess, allocated, leased, lend, peer_process, place

SIZE = 1 << 16
LOST_AFTER_S = 120

pytestmark = pytest.mark.skipif(not Arena.supported(), reason="arenas are Linux's")


@pytest.fixture
def arena() -> Arena:
    return Arena(SIZE)


@pytest.fixture(scope="module")
def peer() -> Iterator[PeerProcess]:
    """Another process for the tests that leave it alive."""
    with peer_process() as process:
        yield process


# Leases -----------------------------------------------------------------------------------------


def test_a_lease_returns_when_the_holder_s_last_array_dies(arena: Arena, peer: PeerProcess) -> None:
    whole = arena.free_bytes
    kept = lend(arena, b"kept", peer.pid)
    offset = lend(arena, b"some content", peer.pid)
    assert b"some content" == peer("hold", arena.address, offset, 12)
    leased_out = arena.free_bytes
    peer("release")
    assert leased_out == arena.free_bytes < whole
    peer("release")
    assert leased_out < arena.free_bytes < whole
    assert b"kept" == peer("read", arena.address, kept, 4)


@pytest.mark.parametrize("picked_up", [True, False])
@pytest.mark.parametrize("end", [PeerProcess.kill, PeerProcess.kill_without_reaping])
def test_a_lease_returns_when_its_holder_is_killed(
    arena: Arena, picked_up: bool, end: Callable[[PeerProcess], None]
) -> None:
    whole = arena.free_bytes
    with peer_process() as holder:
        offset = lend(arena, b"some content", holder.pid)
        if picked_up:
            holder("hold", arena.address, offset, 12)
        assert arena.free_bytes < whole
        end(holder)
        assert whole == arena.free_bytes


def test_a_lease_to_a_process_that_is_gone_returns_at_once(arena: Arena) -> None:
    whole = arena.free_bytes
    with peer_process() as holder:
        holder.kill()
        lend(arena, b"some content", holder.pid)
        assert whole == arena.free_bytes


def test_a_lease_returns_when_another_process_got_its_holder_s_number(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = arena.free_bytes
    lend(arena, b"some content", os.getpid())
    assert arena.free_bytes < whole
    monkeypatch.setattr("deployments.transport.arena.birth", lambda pid: b"later")
    assert whole == arena.free_bytes


def test_a_lease_stays_while_nobody_can_tell_whether_its_holder_lives(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: object) -> None:
        raise OSError(24, "too many open files")

    offset = lend(arena, b"some content", os.getpid())
    with_lease = arena.free_bytes
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", unknown)
        assert with_lease == arena.free_bytes
        space = arena.lendable(100)
        assert space is not None
        assert place(arena, space) != offset
        with pytest.raises(OSError, match="too many open files"):
            arena.lend(space, os.getpid())
        with pytest.raises(ArenaUnreachable, match="too many open files"):
            PeerArenas().view(arena.address, 4096, 1)
    before = arena.free_bytes
    arena.withdraw(offset)
    assert before < arena.free_bytes


def after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    monkeypatch.setattr("deployments.transport.arena.time", clock)


def test_a_lease_that_is_never_picked_up_returns_after_a_while(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = arena.free_bytes
    offset = lend(arena, b"some content", os.getpid())
    after(LOST_AFTER_S - 10, monkeypatch)
    assert arena.free_bytes < whole
    after(LOST_AFTER_S + 1, monkeypatch)
    assert whole == arena.free_bytes
    with pytest.raises(ArenaUnreachable, match="has no lease"):
        PeerArenas().view_lease(arena.address, offset, 12)


def test_a_lease_that_is_held_stays_for_as_long_as_it_takes(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = arena.free_bytes
    held = PeerArenas().view_lease(arena.address, lend(arena, b"some", os.getpid()), 4)
    after(100 * LOST_AFTER_S, monkeypatch)
    assert arena.free_bytes < whole
    assert b"some" == held.tobytes()
    del held
    assert whole == arena.free_bytes


def test_a_lease_outlasts_the_owner_s_own_arrays_and_they_the_lease(arena: Arena) -> None:
    whole = arena.free_bytes
    own = leased(arena, 8, os.getpid())
    held = PeerArenas().view_lease(arena.address, place(arena, own), 8)
    own[:] = 7
    del held
    assert arena.free_bytes < whole
    assert [7] * 8 == own.tolist()
    del own
    assert whole == arena.free_bytes


def test_a_lease_is_aligned_and_none_when_there_is_no_room(arena: Arena) -> None:
    assert 0 == leased(arena, 100, os.getpid()).ctypes.data % ALIGNMENT
    free = arena.free_bytes
    assert arena.lendable(free) is None
    assert free == arena.free_bytes


def test_memory_that_is_not_lent_returns_with_its_last_array(arena: Arena) -> None:
    whole = arena.free_bytes
    array = arena.lendable(100)
    assert array is not None
    assert arena.free_bytes < whole
    del array
    assert whole == arena.free_bytes


def test_only_the_start_of_lendable_memory_is_lent_and_only_once(arena: Arena) -> None:
    array, other = arena.lendable(200), arena.allocate(200)
    assert array is not None
    assert other is not None
    assert arena.lend(array[8:], os.getpid()) is None
    assert arena.lend(other, os.getpid()) is None
    assert arena.lend(np.zeros(200, np.uint8), os.getpid()) is None
    assert arena.offset_of(array) == arena.lend(array, os.getpid())
    assert arena.lend(array, os.getpid()) is None


def test_a_withdrawn_lease_returns_and_cannot_be_picked_up(arena: Arena) -> None:
    whole = arena.free_bytes
    offset = lend(arena, b"some", os.getpid())
    arena.withdraw(offset)
    assert whole == arena.free_bytes
    with pytest.raises(ArenaUnreachable, match="has no lease"):
        PeerArenas().view_lease(arena.address, offset, 4)


def test_a_lease_is_picked_up_once(arena: Arena) -> None:
    offset, peers = lend(arena, b"some", os.getpid()), PeerArenas()
    held = peers.view_lease(arena.address, offset, 4)
    with pytest.raises(ArenaUnreachable, match=f"process {os.getpid()} has no lease at {offset}"):
        peers.view_lease(arena.address, offset, 4)
    assert b"some" == held.tobytes()


# The arenas of others ---------------------------------------------------------------------------


def test_two_processes_see_each_other_s_writes(arena: Arena, peer: PeerProcess) -> None:
    space = allocated(arena, 5)
    space[:] = list(b"mine ")
    assert b"mine " == peer("read", arena.address, place(arena, space), 5)
    peer("write", arena.address, place(arena, space), b"yours")
    assert b"yours" == space.tobytes()


def test_an_array_on_a_peer_s_arena_is_the_peer_s_memory(peer: PeerProcess) -> None:
    address, offset = peer("own", SIZE, b"theirs")
    peers = PeerArenas()
    view, again = peers.view(address, offset, 6), peers.view(address, offset, 6)
    assert b"theirs" == view.tobytes()
    view[0] = ord("T")
    assert b"Theirs" == peer("read", address, offset, 6)
    assert view.ctypes.data == again.ctypes.data


def test_a_peer_gets_back_what_it_has_lent(peer: PeerProcess) -> None:
    address, _ = peer("own", SIZE, b"")
    whole = peer("free_bytes")
    offset = peer("lend", b"theirs", os.getpid())
    held = PeerArenas().view_lease(address, offset, 6)[1:]
    assert b"heirs" == held.tobytes()
    assert peer("free_bytes") < whole
    del held
    assert whole == peer("free_bytes")


def is_mapped(inode: int) -> bool:
    with open("/proc/self/maps") as file:
        return any(line.split()[4] == str(inode) and "anyshape" in line for line in file)


@pytest.mark.parametrize("end", [PeerProcess.kill, PeerProcess.kill_without_reaping])
def test_the_memory_of_a_killed_owner_lasts_as_long_as_arrays_on_it(
    arena: Arena, end: Callable[[PeerProcess], None]
) -> None:
    peers = PeerArenas()
    with peer_process() as owner:
        address, offset = owner("own", SIZE, b"theirs")
        inode = os.stat(f"/proc/{address.pid}/fd/{address.fd}").st_ino
        view = peers.view(address, offset, 6)
        end(owner)
        assert b"theirs" == view.tobytes()
        peers.view(arena.address, 0, 1)
        with pytest.raises(ArenaUnreachable, match=f"^process {address.pid}: "):
            peers.view(address, offset, 6)
        assert b"theirs" == view.tobytes()
        assert is_mapped(inode)
        del view
        assert not is_mapped(inode)


def test_an_owner_whose_number_another_process_got_is_dropped(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, peers = Arena(SIZE).address, PeerArenas()
    with pytest.raises(ArenaUnreachable, match=f"^process {os.getpid()}: "):
        peers.view(address, 0, 1)  # dead already
    other = Arena(SIZE)
    peers.view(other.address, 0, 1)
    inode = os.fstat(other.address.fd).st_ino
    del other
    assert is_mapped(inode)
    monkeypatch.setattr("deployments.transport.arena.birth", lambda pid: b"later")
    peers.view(arena.address, 0, 1)
    assert not is_mapped(inode)


def wrong_addresses(right: ArenaAddress) -> Iterator[ArenaAddress]:
    ends, sockets = os.pipe(), socket.socketpair()
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        yield right._replace(token=bytes(16))
        yield right._replace(size=right.size + mmap.PAGESIZE)
        yield right._replace(size=right.size - mmap.PAGESIZE)
        yield right._replace(pid=2**22 + 1)
        for fd in (*ends, *(end.fileno() for end in sockets), file.fileno()):
            yield right._replace(fd=fd)
    yield right._replace(fd=file_number_that_is_free())
    for end in sockets:
        end.close()
    for fd in ends:
        os.close(fd)


def file_number_that_is_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


def test_what_is_not_the_arena_is_refused_and_not_kept_open(arena: Arena) -> None:
    peers = PeerArenas()
    for address in wrong_addresses(arena.address):
        open_before = open_files()
        with pytest.raises(ArenaUnreachable, match=f"^process {address.pid}"):
            peers.view(address, 0, 8)
        assert open_before >= open_files()
    assert b"" == peers.view(arena.address, 0, 0).tobytes()


def test_an_arena_that_cannot_be_mapped_is_unreachable(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("deployments.transport.arena.mmap.mmap", refuse)
    with pytest.raises(ArenaUnreachable, match="Cannot allocate memory"):
        PeerArenas().view(arena.address, 0, 8)


@pytest.mark.parametrize("offset", [-1, 0, SIZE - 1, SIZE, SIZE + 1])
@pytest.mark.parametrize("nbytes", [-8, 2, SIZE + 1, 1 << 62])
def test_what_lies_outside_the_arena_is_refused(arena: Arena, offset: int, nbytes: int) -> None:
    peers = PeerArenas()
    if (offset, nbytes) == (0, 2):
        assert 2 == peers.view(arena.address, offset, nbytes).nbytes
        return
    for view in (peers.view, peers.view_lease):
        with pytest.raises(ArenaUnreachable, match=f"{nbytes} bytes at {offset} are outside"):
            view(arena.address, offset, nbytes)


def test_a_lease_longer_than_the_arena_is_refused_untouched(arena: Arena) -> None:
    offset, peers = lend(arena, b"some", os.getpid()), PeerArenas()
    with pytest.raises(ArenaUnreachable, match="outside"):
        peers.view_lease(arena.address, offset, SIZE)
    with pytest.raises(ArenaUnreachable, match="outside"):
        peers.view_lease(arena.address, ALIGNMENT - 1, 4)
    assert b"some" == peers.view_lease(arena.address, offset, 4).tobytes()
