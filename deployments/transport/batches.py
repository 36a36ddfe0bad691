"""How tensors cross between the two deployments: shared memory on one node, references else.

What crosses are plain and named tuples, which pickle fast. A packed tensor's payload is the array
itself (small, or crossing by reference), a list of byte strings, or the place of the data in the
sender's arena.
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
"""Tensors up to this size travel inside the call, larger ones in shared memory."""

MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""The most a call carries inside itself: half of gRPC's limit of 4 MiB, names and all else."""

PackedTensor: TypeAlias = tuple[str, str, tuple[int, ...], Array | list[bytes] | int]


class BatchItem(NamedTuple):
    """One request of a batch. `time_left_s` is what remains of its time when it is sent.

    `trace` is the `traceparent` of the span that waits for it, empty where nothing is traced.
    """

    tensors: tuple[PackedTensor, ...]
    rows: int
    outputs: tuple[str, ...]
    time_left_s: float
    request_id: str = ""
    trace: str = ""


class BatchCall(NamedTuple):
    """Requests of one shape key for one model version, which its `revision` names.

    With `arena`, answers above INLINE_BYTES may come back in the model's own arena, leased to
    the process that owns `arena`; without it everything travels inside the call and the answer.
    """

    revision: str
    key: ShapeKey
    members: tuple[BatchItem, ...]
    arena: ArenaAddress | None


class Referenced(NamedTuple):
    """A call whose members are an object of Ray's, which the receiver awaits.

    As an argument of the call Ray would fetch it first. While the sender hangs that takes for ever,
    and the calls of all others would wait behind it.
    """

    call: BatchCall
    members: Awaitable[tuple[BatchItem, ...]]

    async def fetched(self) -> BatchCall:
        return self.call._replace(members=await self.members)


class BatchReply(NamedTuple):
    """The answers in the order of the call's members, or what went wrong with each.

    `load` is how many requests the replica had under way then, these among them, and `took_s` how
    long it had the call.
    """

    members: tuple[tuple[PackedTensor, ...] | ServingError, ...]
    arena: ArenaAddress | None = None
    load: int = 0
    took_s: float = 0.0


class Route(NamedTuple):
    """The replica that a call is meant for, by the unique part of its id; None for any.

    It is `near` if it may share memory with the caller, that is, on the same node.
    """

    replica: str | None
    near: bool


ANY_ROUTE: Final = Route(None, near=True)


class Unreachable(NamedTuple):
    """The reply to a call that shared memory did not carry: send it again by reference.

    `lasting` if there is none between these processes, not lasting if it is full right now.
    """

    reason: str
    lasting: bool


class DoesNotFit(Exception):
    """Raised when an arena has no room for tensors that a message cannot carry either."""


def inline_bytes(tensor: Tensor, arena: Arena | None) -> int:
    """How many bytes the tensor adds to a message when it is packed for this arena."""
    if not isinstance(tensor.data, list) and arena and arena.offset_of(tensor.data) is not None:
        return 0
    return tensor.nbytes


def carried_bytes(members: Iterable[BatchItem]) -> int:
    """The bytes of the tensors that travel inside a call with these members."""
    return sum(
        sum(map(len, data)) if isinstance(data, list) else data.nbytes
        for member in members
        for *_, data in member.tensors
        if not isinstance(data, int)
    )


def into_arena(tensor: Tensor, arena: Arena) -> Tensor:
    """The tensor with its numbers in the arena, copied there if they are large and elsewhere."""
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
    """Packs an answer for a process of this node. Raises DoesNotFit, and leases nothing then.

    Large tensors are copied into the arena unless they are on its lendable memory already.
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
    """Gives back what was leased for an answer that will not be sent."""
    for *_, data in packed:
        if isinstance(data, int):
            arena.withdraw(data)


def unpack(
    packed: PackedTensor, arena: ArenaAddress | None, peers: PeerArenas, *, leased: bool = False
) -> Tensor:
    """The tensor, not copied. Raises ArenaUnreachable."""
    name, datatype, shape, data = packed
    if isinstance(data, int):
        assert arena is not None, "a place in an arena needs the arena"
        dtype = NUMPY_DTYPES[datatype]
        view = peers.view_lease if leased else peers.view
        data = view(arena, data, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return Tensor(name, datatype, shape, data)


def copied(data: Array, space: Array) -> Array:
    """The array's copy in `space`, a uint8 vector of its size."""
    target = space.view(data.dtype).reshape(data.shape)
    target[...] = data
    return target
