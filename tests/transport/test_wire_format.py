import io
import pickle
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import ModelUnavailable, ServingError
from deployments.tensors import Tensor
from deployments.transport.arena import ArenaAddress, PeerArenas
from deployments.transport.batches import (
    BatchCall,
    BatchItem,
    BatchReply,
    PackedTensor,
    Unreachable,
    pack,
    unpack,
)
from deployments.transport.wire_format import call_of, plain_call, plain_reply, reply_of
from tests.pickled import sent
from tests.strategies import contents, tensors

ARENA = ArenaAddress(1, 2, 3, b"token")
IN_ARENA: PackedTensor = ("large", "FP32", (1, 3, 300, 300), 4096)

arenas = st.sampled_from([None, ARENA])


def told(tensors: Sequence[PackedTensor]) -> list[object]:
    """What can be compared."""
    return [
        t if isinstance(t[3], int) else contents(unpack(t, None, PeerArenas())) for t in tensors
    ]


@given(st.lists(tensors(), max_size=3), arenas, st.sampled_from(["", "a" * 32]))
def test_calls_come_as_they_were_sent(
    sending: list[Tensor], arena: ArenaAddress | None, trace: str
) -> None:
    members = tuple(
        BatchItem((pack(tensor, None), IN_ARENA), 2, ("y", "z"), 1.5, "id", trace)
        for tensor in sending
    )
    call = BatchCall("1-a", ((1, 2), (-1, 3)), members, arena)

    came = call_of(sent(plain_call(call)))

    assert isinstance(came, BatchCall)
    assert came._replace(members=()) == call._replace(members=())
    assert type(came.arena) is type(arena)
    for mine, its in zip(members, came.members, strict=True):
        assert isinstance(its, BatchItem)
        assert mine[1:] == its[1:]
        assert told(mine.tensors) == told(its.tensors)


@given(st.lists(tensors(), max_size=3), arenas)
def test_replies_come_as_they_were_sent(answers: list[Tensor], arena: ArenaAddress | None) -> None:
    error = ModelUnavailable("m", "it is loading")
    members = [(pack(tensor, None), IN_ARENA) for tensor in answers]
    reply = BatchReply((*members, error), arena, 3, 0.25)

    came = reply_of(sent(plain_reply(reply)))

    assert isinstance(came, BatchReply)
    assert came[1:] == (arena, 3, 0.25)
    assert type(came.arena) is type(arena)
    *tensor_members, last = came.members
    assert isinstance(last, ModelUnavailable)
    assert str(error) == str(last)
    for mine, its in zip(members, tensor_members, strict=True):
        assert not isinstance(its, ServingError)
        assert told(mine) == told(its)


def test_that_there_is_no_shared_memory_comes_as_it_was_sent() -> None:
    for lasting in (True, False):
        reply = Unreachable("another node", lasting)
        came = reply_of(sent(plain_reply(reply)))
        assert isinstance(came, Unreachable)
        assert reply == came


def test_numbers_that_came_can_be_written_to() -> None:
    tensor = Tensor("x", "INT64", (2, 2), np.arange(4).reshape(2, 2))
    member = BatchItem((pack(tensor, None),), 1, (), 1.0)
    came = call_of(sent(plain_call(BatchCall("1-a", ((2, 2),), (member,), None))))
    data = came.members[0].tensors[0][3]
    assert isinstance(data, np.ndarray)
    assert data.flags.writeable


def test_no_class_is_looked_up_where_nothing_failed() -> None:
    tensor = Tensor("x", "FP32", (1,), np.zeros(1, np.float32))
    call = BatchCall(
        "1-a", ((1,),), (BatchItem((pack(tensor, None), IN_ARENA), 1, (), 1.0),), ARENA
    )
    reply = BatchReply(((pack(tensor, None), IN_ARENA),), ARENA)

    class Finds(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            raise AssertionError(f"{module}.{name}")

    for plain in (plain_call(call), plain_reply(reply)):
        Finds(io.BytesIO(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL))).load()
