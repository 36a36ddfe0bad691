"""Calls and replies between the two deployments, and the tensors in them.

Large tensors travel in shared memory on one node, and by reference between nodes. Messages are
plain and named tuples, which pickle fast. The payload of a packed tensor is the array itself (if
small, or by reference), a list of byte strings, or the offset of the data in the sender's arena.
"""

from collections.abc import Awaitable, Iterable, Sequence
from math import prod
from typing import Final, NamedTuple, TypeAlias

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import ServingError
from deployments.inference import ShapeKey
from deployments.tensors import Array, Tensor
from deployments.transport.arena import Arena, ArenaAddress, PeerArenas

INLINE_BYTES: Final = 32 * 1024
"""Tensors up to this size travel inside the message, larger ones in shared memory."""

MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""The limit of a message: half of gRPC's 4 MiB, which leaves room for names and the rest."""

PackedTensor: TypeAlias = tuple[str, str, tuple[int, ...], Array | list[bytes] | int]


class BatchItem(NamedTuple):
    """One request of a batch. `time_left_s` is its remaining timeout when the batch leaves.

    `trace` is the `traceparent` of the span that waits for it, empty without tracing.
    """

    tensors: tuple[PackedTensor, ...]
    rows: int
    outputs: tuple[str, ...]
    time_left_s: float
    request_id: str = ""
    trace: str = ""


class BatchCall(NamedTuple):
    """Requests of one shape key for the model version that `revision` names.

    With `arena`, answers above INLINE_BYTES may come back in the model's own arena, leased to the
    process that owns `arena`. Without it all tensors travel inside the call and the reply.
    """

    revision: str
    key: ShapeKey
    members: tuple[BatchItem, ...]
    arena: ArenaAddress | None


class Referenced(NamedTuple):
    """A call whose members are an object in Ray's store, which the receiver awaits.

    If the object were an argument of the call, Ray would fetch it first. If the sender hangs, that
    never ends, and the calls of all other senders would wait behind it.
    """

    call: BatchCall
    members: Awaitable[tuple[BatchItem, ...]]

    async def fetched(self) -> BatchCall:
        return self.call._replace(members=await self.members)


class BatchReply(NamedTuple):
    """An answer or an error for each member of the call, in order.

    `load` is the number of requests that the replica had in flight, including these. `took_s` is
    how long the replica worked on the call.
    """

    members: tuple[tuple[PackedTensor, ...] | ServingError, ...]
    arena: ArenaAddress | None = None
    load: int = 0
    took_s: float = 0.0


class Route(NamedTuple):
    """The replica that a call is for, by the unique part of its id; None for any.

    It is `near` if it is on the caller's node, and so may share memory.
    """

    replica: str | None
    near: bool


ANY_ROUTE: Final = Route(None, near=True)


class Unreachable(NamedTuple):
    """The reply if shared memory could not carry a call: the caller sends it again by reference.

    `lasting` if these processes cannot share memory, not lasting if the memory is full right now.
    """

    reason: str
    lasting: bool


class DoesNotFit(Exception):
    """Raised when an arena has no room for a tensor that is too large for a message."""


def inline_bytes(tensor: Tensor, arena: Arena | None) -> int:
    """The bytes that the tensor adds to a message, if `arena` is the sender's."""
    if not isinstance(tensor.data, list) and arena and arena.offset_of(tensor.data) is not None:
        return 0
    return tensor.nbytes


def carried_bytes(members: Iterable[BatchItem]) -> int:
    """The bytes of the tensors that travel inside the message of these members."""
    return sum(
        sum(map(len, data)) if isinstance(data, list) else data.nbytes
        for member in members
        for *_, data in member.tensors
        if not isinstance(data, int)
    )


def into_arena(tensor: Tensor, arena: Arena) -> Tensor:
    """The tensor, copied to the arena if it is large, not there yet, and there is room."""
    data = tensor.data
    if isinstance(data, list) or data.nbytes <= INLINE_BYTES or arena.offset_of(data) is not None:
        return tensor
    if (space := arena.allocate(data.nbytes)) is None:
        return tensor
    return Tensor(tensor.name, tensor.datatype, tensor.shape, copied(data, space))


def pack(tensor: Tensor, arena: Arena | None) -> PackedTensor:
    data: Array | list[bytes] | int = tensor.data
    if arena is not None and not isinstance(data, list | int):
        offset = arena.offset_of(data)
        data = data if offset is None else offset
    return tensor.name, tensor.datatype, tensor.shape, data


def pack_leased(
    tensors: Sequence[Tensor], arena: Arena, holder_pid: int
) -> tuple[PackedTensor, ...]:
    """Packs an answer for a process of this node. Raises DoesNotFit, and then leases nothing.

    Copies large tensors into the arena, unless they are on its lendable memory already.
    """
    packed: list[PackedTensor] = []
    for tensor in tensors:
        data: Array | list[bytes] | int = tensor.data
        if not isinstance(data, list | int) and data.nbytes > INLINE_BYTES:
            offset = arena.lend(data, holder_pid)
            if offset is None and (space := arena.lendable(data.nbytes)) is not None:
                offset = arena.lend(copied(data, space), holder_pid)
            if offset is not None:
                data = offset
            elif data.nbytes > MESSAGE_BYTES:
                withdraw(packed, arena)
                raise DoesNotFit(tensor.name)
        packed.append((tensor.name, tensor.datatype, tensor.shape, data))
    return tuple(packed)


def withdraw(packed: Iterable[PackedTensor], arena: Arena) -> None:
    """Ends the leases of an answer that will not be sent."""
    for *_, data in packed:
        if isinstance(data, int):
            arena.withdraw(data)


def unpack(
    packed: PackedTensor, arena: ArenaAddress | None, peers: PeerArenas, *, leased: bool = False
) -> Tensor:
    """The tensor, without a copy. Raises ArenaUnreachable."""
    name, datatype, shape, data = packed
    if isinstance(data, int):
        assert arena is not None, "an offset in an arena needs the arena"
        dtype = NUMPY_DTYPES[datatype]
        view = peers.view_lease if leased else peers.view
        data = view(arena, data, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return Tensor(name, datatype, shape, data)


def copied(data: Array, space: Array) -> Array:
    """Copies the array to `space`, a uint8 vector of its size."""
    target = space.view(data.dtype).reshape(data.shape)
    target[...] = data
    return target
