"""Packs a batch's answers into a reply, or leases them to the ingress in this process's arena."""

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias

from deployments.errors import ServingError
from deployments.model.execution.requests import Answer
from deployments.tensors import Array, Tensor
from deployments.transport.arena import Arena
from deployments.transport.batches import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    BatchCall,
    BatchReply,
    DoesNotFit,
    PackedTensor,
    Unreachable,
    inline_bytes,
    pack,
    pack_leased,
    withdraw,
)

_OFF_LOOP_BYTES: Final = 1 << 20
_Packed: TypeAlias = tuple[PackedTensor, ...] | ServingError


class Replies:
    """Makes replies of answers; large outputs go to `arena`, if there is one."""

    def __init__(self, arena: Arena | None) -> None:
        self._arena = arena

    def space(self, nbytes: int) -> Array | None:
        """Allocates memory for an output that is too large to travel inside a reply."""
        if self._arena is None or nbytes <= INLINE_BYTES:
            return None
        return self._arena.lendable(nbytes)

    async def made(self, answers: Sequence[Answer], call: BatchCall) -> BatchReply | Unreachable:
        """The reply to `call`. A thread makes large copies."""
        if self._copies(answers) > _OFF_LOOP_BYTES:
            return await asyncio.to_thread(self._reply, answers, call)
        return self._reply(answers, call)

    def _copies(self, answers: Sequence[Answer]) -> int:
        """The bytes of outputs that the reply has to copy."""
        outputs = (a for answer in answers if not isinstance(answer, ServingError) for a in answer)
        return sum(inline_bytes(output, self._arena) for output in outputs)

    def _reply(self, answers: Sequence[Answer], call: BatchCall) -> BatchReply | Unreachable:
        if call.arena is None or self._arena is None:
            inline = (a if isinstance(a, ServingError) else _inline(a) for a in answers)
            return BatchReply(tuple(inline))
        members: list[_Packed] = []
        try:
            for answer in answers:
                packed = (
                    answer
                    if isinstance(answer, ServingError)
                    else pack_leased(answer, self._arena, call.arena.pid)
                )
                members.append(packed)
        except DoesNotFit:
            return _taken_back(members, self._arena, "no shared memory is left for the outputs")
        if _message_bytes(members) > MESSAGE_BYTES:
            return _taken_back(members, self._arena, "the outputs are too large for a message")
        return BatchReply(tuple(members), self._arena.address)


def _taken_back(members: Sequence[_Packed], arena: Arena, reason: str) -> Unreachable:
    for member in members:
        if not isinstance(member, ServingError):
            withdraw(member, arena)
    return Unreachable(reason, lasting=False)


def _inline(answer: Sequence[Tensor]) -> tuple[PackedTensor, ...]:
    return tuple(pack(tensor, None) for tensor in answer)


def _message_bytes(members: Sequence[_Packed]) -> int:
    total = 0
    for member in members:
        for *_, data in () if isinstance(member, ServingError) else member:
            if isinstance(data, list):
                total += sum(map(len, data)) + 4 * len(data)
            elif not isinstance(data, int):
                total += data.nbytes
    return total
