"""Queued requests, and their conversion to the items of a call to the model."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from deployments.observability.tracing import Traced
from deployments.tensors import Tensor
from deployments.transport.arena import Arena
from deployments.transport.batches import INLINE_BYTES, BatchItem, inline_bytes, into_arena, pack


class QueuedRequest(NamedTuple):
    """A request in a queue; its times are of the monotonic clock."""

    tensors: tuple[Tensor, ...]
    rows: int
    outputs: tuple[str, ...]
    arrived: float
    deadline: float
    request_id: str = ""
    trace: Traced | None = None


def bytes_outside_arena(items: Sequence[QueuedRequest], arena: Arena) -> int:
    """The bytes of the tensors outside the arena; of all tensors if they are small together."""
    nbytes = sum([tensor.nbytes for item in items for tensor in item.tensors])
    if nbytes <= INLINE_BYTES:
        return nbytes
    return sum(inline_bytes(tensor, arena) for item in items for tensor in item.tensors)


def placed(items: Sequence[QueuedRequest], arena: Arena) -> list[QueuedRequest]:
    return [
        item._replace(tensors=tuple(into_arena(tensor, arena) for tensor in item.tensors))
        for item in items
    ]


def members(items: Sequence[QueuedRequest], arena: Arena | None) -> tuple[BatchItem, ...]:
    now = time.monotonic()
    return tuple(
        [
            BatchItem(
                tuple([pack(tensor, arena) for tensor in item.tensors]),
                item.rows,
                item.outputs,
                max(0.0, item.deadline - now),
                item.request_id,
                "" if item.trace is None else item.trace.parent,
            )
            for item in items
        ]
    )
