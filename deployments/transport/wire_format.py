"""Calls and replies on a connection, as plain tuples, numbers and bytes.

Pickle looks up every class of a message by its name, and a numpy array has four. For a message that
takes some 10 microseconds in a loop, but 150 between two inferences, which empty the caches.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from deployments.datatypes import NUMPY_DTYPES
from deployments.errors import ServingError
from deployments.tensors import Array
from deployments.transport.arena import ArenaAddress
from deployments.transport.batches import (
    BatchCall,
    BatchItem,
    BatchReply,
    PackedTensor,
    Unreachable,
)

FORMAT: Final = 3
"""The version of this format. If it differs between two ends, during an update, batches take the
handle."""

Plain: TypeAlias = tuple[Any, ...]


def plain_call(call: BatchCall) -> Plain:
    members = tuple((_plain(tensors), *rest) for tensors, *rest in call.members)
    return call.revision, call.key, members, call.arena and tuple(call.arena)


def call_of(plain: Plain) -> BatchCall:
    revision, key, members, arena = plain
    return BatchCall(
        revision,
        key,
        tuple(BatchItem(_tensors(tensors), *rest) for tensors, *rest in members),
        arena and ArenaAddress(*arena),
    )


def plain_reply(reply: BatchReply | Unreachable) -> Plain:
    """Converts a reply. Errors stay objects: they are rare, and pickle carries them."""
    if isinstance(reply, Unreachable):
        return tuple(reply)
    members, arena, *rest = reply
    answers = tuple(a if isinstance(a, ServingError) else _plain(a) for a in members)
    return answers, arena and tuple(arena), *rest


def reply_of(plain: Plain) -> BatchReply | Unreachable:
    if len(plain) == len(Unreachable._fields):
        return Unreachable(*plain)
    members, arena, *rest = plain
    answers = tuple(a if isinstance(a, ServingError) else _tensors(a) for a in members)
    return BatchReply(answers, arena and ArenaAddress(*arena), *rest)


def _plain(tensors: Sequence[PackedTensor]) -> Plain:
    return tuple(
        (name, datatype, shape, _bytes(data, datatype) if isinstance(data, np.ndarray) else data)
        for name, datatype, shape, data in tensors
    )


def _bytes(data: Array, datatype: str) -> bytearray:
    assert data.dtype == NUMPY_DTYPES[datatype], f"{data.dtype} is not {datatype}"
    return bytearray(data.data)


def _tensors(plain: Plain) -> tuple[PackedTensor, ...]:
    """Makes writable arrays, which OpenVINO needs: so their bytes are a bytearray."""
    return tuple(
        (
            name,
            datatype,
            shape,
            np.frombuffer(data, NUMPY_DTYPES[datatype]).reshape(shape)
            if isinstance(data, bytearray)
            else data,
        )
        for name, datatype, shape, data in plain
    )
