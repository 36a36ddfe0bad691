import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.datatypes import BYTES, NUMPY_DTYPES
from deployments.errors import LimitExceeded, ModelUnavailable
from deployments.tensors import Tensor, from_bytes, to_bytes
from deployments.transport.arena import Arena, ArenaAddress, ArenaUnreachable, PeerArenas
from deployments.transport.batches import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    BatchCall,
    BatchItem,
    BatchReply,
    DoesNotFit,
    PackedTensor,
    Unreachable,
    carried_bytes,
    inline_bytes,
    into_arena,
    pack,
    pack_leased,
    unpack,
    withdraw,
)
from tests.pickled import sent
from tests.strategies import contents, numeric_datatypes, tensors
from tests.transport.arena_peer import allocated, peer_process

MiB = 1 << 20
LARGE = INLINE_BYTES + 1

on_linux = pytest.mark.skipif(not Arena.supported(), reason="arenas are Linux's")


@pytest.fixture
def arena() -> Arena:
    return Arena(MiB)


@pytest.fixture(scope="module")
def large_arena() -> Arena:
    return Arena(16 * MiB)


def numbers(nbytes: int, name: str = "x") -> Tensor:
    return Tensor(name, "UINT8", (nbytes,), np.arange(nbytes, dtype=np.uint32).astype(np.uint8))


def strings(*items: bytes) -> Tensor:
    return Tensor("s", BYTES, (len(items),), list(items))


def payload(packed: PackedTensor) -> object:
    return packed[3]


# By message -------------------------------------------------------------------------------------


@given(tensors())
def test_every_tensor_crosses_inside_a_message(tensor: Tensor) -> None:
    packed = pack(tensor, None)
    assert not isinstance(payload(packed), int)
    assert contents(tensor) == contents(unpack(sent(packed), None, PeerArenas()))


@on_linux
@given(tensors())
def test_what_is_not_in_the_arena_crosses_inside_the_message(tensor: Tensor) -> None:
    arena = Arena(4096)
    packed = pack(tensor, arena)
    assert tensor.nbytes == inline_bytes(tensor, arena) == inline_bytes(tensor, None)
    assert contents(tensor) == contents(unpack(sent(packed), arena.address, PeerArenas()))


@on_linux
def test_a_large_list_of_strings_crosses_inside_the_message(arena: Arena) -> None:
    tensor = strings(*[b"%d" % n * 10 for n in range(20_000)])
    assert tensor is into_arena(tensor, arena)
    assert tensor.nbytes == inline_bytes(tensor, arena) > INLINE_BYTES
    (leased,) = pack_leased([tensor], arena, os.getpid())
    assert contents(tensor) == contents(unpack(sent(pack(tensor, arena)), None, PeerArenas()))
    assert contents(tensor) == contents(unpack(sent(leased), None, PeerArenas(), leased=True))


@on_linux
def test_messages_survive_being_sent(arena: Arena) -> None:
    member = BatchItem((("x", BYTES, (1,), [b"a"]), ("y", "FP32", (2,), 4096)), 1, ("out",), 0.5)
    call = BatchCall("1", ((-1, 3), ()), (member,), arena.address)
    reply = BatchReply((member.tensors,), arena.address)
    assert call == sent(call)
    assert call._replace(arena=None) == sent(call._replace(arena=None))
    assert reply == sent(reply)
    unreachable = Unreachable("the arena is full", lasting=False)
    assert unreachable == sent(unreachable)


def test_errors_in_a_reply_stay_what_they_are() -> None:
    errors = ModelUnavailable("spots", "it is being loaded"), LimitExceeded("batch", 5, "rows", 4)
    reply = sent(BatchReply(errors))
    assert [(type(e), str(e)) for e in errors] == [(type(e), str(e)) for e in reply.members]


# By the sender's arena --------------------------------------------------------------------------


@on_linux
@given(tensors(numeric_datatypes), st.integers(0, 70))
def test_numbers_in_a_body_in_the_arena_cross_without_a_copy(
    large_arena: Arena, drawn: Tensor, header: int
) -> None:
    wire = bytes(to_bytes(drawn))
    body = allocated(large_arena, header + len(wire), lead=header)
    body[header:] = np.frombuffer(wire, np.uint8)
    tensor = from_bytes(drawn.name, drawn.datatype, drawn.shape, body[header:])
    packed = sent(pack(tensor, large_arena))
    again = unpack(packed, large_arena.address, PeerArenas())
    assert contents(drawn) == contents(again)
    if wire:
        assert large_arena.offset_of(body[header:]) == payload(packed)
        assert 0 == inline_bytes(tensor, large_arena)
        body[header:] = 0
        assert not any(bytes(to_bytes(again)))


@on_linux
def test_rows_of_a_tensor_in_the_arena_cross_without_a_copy(arena: Arena) -> None:
    whole = into_arena(replace(numbers(LARGE * 2), shape=(2, LARGE)), arena)
    whole = replace(whole, data=np.asarray(whole.data).reshape(2, LARGE))
    rows = whole.rows(1, 2)
    packed = pack(rows, arena)
    assert isinstance(payload(packed), int)
    assert contents(rows) == contents(unpack(packed, arena.address, PeerArenas()))


@on_linux
def test_large_numbers_are_put_into_the_arena_once(arena: Arena) -> None:
    tensor = numbers(LARGE)
    placed = into_arena(tensor, arena)
    assert contents(tensor) == contents(placed)
    assert 0 == inline_bytes(placed, arena)
    assert placed is into_arena(placed, arena)
    assert contents(tensor) == contents(
        unpack(sent(pack(placed, arena)), arena.address, PeerArenas())
    )


@on_linux
def test_small_numbers_stay_where_they_are(arena: Arena) -> None:
    tensor = numbers(INLINE_BYTES)
    assert tensor is into_arena(tensor, arena)
    assert INLINE_BYTES == inline_bytes(tensor, arena)


@on_linux
def test_numbers_that_find_no_room_stay_where_they_are(arena: Arena) -> None:
    tensor = numbers(2 * MiB)
    assert tensor is into_arena(tensor, arena)
    assert 2 * MiB == inline_bytes(tensor, arena)


@on_linux
def test_numbers_that_lie_otherwise_are_put_into_the_arena_row_by_row(arena: Arena) -> None:
    data = np.arange(4 * LARGE, dtype=np.float32).reshape(4, LARGE).T
    placed = into_arena(Tensor("x", "FP32", data.shape, data), arena)
    assert isinstance(placed.data, np.ndarray)
    assert placed.data.flags.c_contiguous
    np.testing.assert_array_equal(data, placed.data)


@on_linux
def test_the_memory_returns_when_the_sent_tensor_is_forgotten(arena: Arena) -> None:
    whole = arena.free_bytes
    placed = into_arena(numbers(LARGE), arena)
    assert arena.free_bytes < whole
    del placed
    assert whole == arena.free_bytes


@on_linux
def test_a_place_in_an_arena_that_is_not_there_is_unreachable(arena: Arena) -> None:
    wrong = ArenaAddress(os.getpid(), arena.address.fd, arena.address.size, bytes(16))
    packed: PackedTensor = ("x", "FP32", (2,), 4096)
    with pytest.raises(ArenaUnreachable, match="another arena"):
        unpack(packed, wrong, PeerArenas())
    with pytest.raises(ArenaUnreachable, match="outside"):
        unpack(("x", "FP32", (MiB,), 4096), arena.address, PeerArenas())
    with pytest.raises(AssertionError, match="needs the arena"):
        unpack(packed, None, PeerArenas())


# Leased -----------------------------------------------------------------------------------------


@on_linux
@given(st.lists(st.one_of(tensors(), st.integers(LARGE - 2, LARGE + 300).map(numbers)), max_size=5))
def test_every_answer_crosses_and_its_memory_returns(
    large_arena: Arena, answer: list[Tensor]
) -> None:
    whole = large_arena.free_bytes
    packed = sent(pack_leased(answer, large_arena, os.getpid()))
    assert [tensor.nbytes > INLINE_BYTES for tensor in answer] == [
        isinstance(payload(p), int) for p in packed
    ]
    peers = PeerArenas()
    again = [unpack(p, large_arena.address, peers, leased=True) for p in packed]
    assert [contents(tensor) for tensor in answer] == [contents(tensor) for tensor in again]
    del again
    assert whole == large_arena.free_bytes


@on_linux
@pytest.mark.parametrize("datatype", ["FP64", "BF16", "FP16", "BOOL"])
def test_a_leased_answer_keeps_datatype_and_shape(arena: Arena, datatype: str) -> None:
    raw = np.arange(16 * 1024 * 8, dtype=np.uint32).astype(np.uint8) & 1
    tensor = from_bytes("x", datatype, (2, raw.size // NUMPY_DTYPES[datatype].itemsize // 2), raw)
    (packed,) = pack_leased([tensor], arena, os.getpid())
    assert isinstance(payload(packed), int)
    again = unpack(packed, arena.address, PeerArenas(), leased=True)
    assert contents(tensor) == contents(again)


@on_linux
def test_an_answer_on_lendable_memory_is_not_copied(arena: Arena) -> None:
    space = arena.lendable(LARGE)
    assert space is not None
    answer = Tensor("x", "UINT8", (LARGE, 1), space.reshape(-1, 1))
    free = arena.free_bytes
    (first,) = pack_leased([answer], arena, os.getpid())
    assert arena.offset_of(space) == payload(first)
    assert free == arena.free_bytes
    (second,) = pack_leased([answer], arena, os.getpid())
    assert payload(first) != payload(second), "it was lent, and may be changed or given back"


@on_linux
def test_an_answer_of_another_process_is_its_memory_until_it_is_dropped() -> None:
    with peer_process() as peer:
        address, _ = peer("own", MiB, b"")
        whole = peer("free_bytes")
        packed: PackedTensor = ("x", "INT16", (2, 1), peer("lend", b"\1\0\2\0", os.getpid()))
        tensor = unpack(packed, address, PeerArenas(), leased=True)
        assert [[1], [2]] == np.asarray(tensor.data).tolist()
        assert peer("free_bytes") < whole
        del tensor
        assert whole == peer("free_bytes")


@on_linux
def test_an_answer_without_room_in_the_arena_crosses_inside_the_message(arena: Arena) -> None:
    tensor = numbers(MESSAGE_BYTES)
    (packed,) = pack_leased([tensor], arena, os.getpid())
    assert contents(tensor) == contents(unpack(sent(packed), None, PeerArenas(), leased=True))


@on_linux
def test_an_answer_that_neither_arena_nor_message_can_carry_does_not_fit(arena: Arena) -> None:
    whole = arena.free_bytes
    answer = [numbers(LARGE), strings(b"a"), numbers(LARGE), numbers(MESSAGE_BYTES + 1, "huge")]
    with pytest.raises(DoesNotFit, match="huge"):
        pack_leased(answer, arena, os.getpid())
    assert whole == arena.free_bytes


@on_linux
def test_an_answer_that_is_not_sent_after_all_gives_its_memory_back(arena: Arena) -> None:
    whole = arena.free_bytes
    packed = pack_leased(
        [numbers(LARGE), strings(b"a"), numbers(4), numbers(LARGE)], arena, os.getpid()
    )
    assert arena.free_bytes < whole
    withdraw(packed, arena)
    assert whole == arena.free_bytes


def test_a_call_carries_its_arrays_and_its_strings_but_not_what_lies_in_shared_memory() -> None:
    array = np.zeros((2, 3), np.float32)
    tensors = (("a", "FP32", (2, 3), array), ("b", "BYTES", (2,), [b"12", b"345"]))
    placed = ("c", "FP32", (1000,), 4096)
    members = [BatchItem(tensors, 1, (), 1.0), BatchItem((*tensors, placed), 1, (), 1.0)]
    assert 2 * (24 + 5) == carried_bytes(members)
