"""The transport of requests and answers: shared memory if it works, else by reference."""

import asyncio
import gc
from dataclasses import replace

import numpy as np
import pytest

from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.ingress.dataplane.served_model import _BY_REFERENCE_AFTER_FAILURE
from deployments.tensors import Tensor
from deployments.transport.arena import Arena
from deployments.transport.batches import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    BatchReply,
    PackedTensor,
    Unreachable,
    pack_leased,
)
from tests.ingress.replicas import INFO, Replicas, infer, served

pytestmark = pytest.mark.skipif(not Arena.supported(), reason="needs memfd_create")

MiB = 1 << 20
SMALL = 1, INLINE_BYTES // 4
LARGE = 1, INLINE_BYTES // 4 + 1


def placed(replicas: Replicas) -> list[bool]:
    """For each call so far, whether its first tensor was in the arena."""
    return [isinstance(call.members[0].tensors[0][3], int) for call in replicas.calls]


async def test_large_tensors_cross_in_shared_memory_small_ones_in_the_call() -> None:
    replicas = Replicas()
    arena = Arena(MiB)
    model = served(replicas, arena)
    for shape in (SMALL, LARGE):
        answer = await infer(model, *shape, value=3)
        assert np.full(shape, 6).tolist() == answer.tolist()
    assert [False, True] == placed(replicas)
    assert [False, False] == replicas.by_reference
    assert [arena.address] * 2 == [call.arena for call in replicas.calls]


async def test_shared_memory_is_returned_when_the_answer_is_there() -> None:
    arena = Arena(MiB)
    model = served(Replicas(), arena)
    free = arena.free_bytes
    for _ in range(100):  # all of them together would not fit
        await infer(model, 2, 50_000)
    await model.close()
    gc.collect()
    assert free == arena.free_bytes


async def test_without_an_arena_everything_goes_by_reference() -> None:
    replicas = Replicas()
    answer = await infer(served(replicas, None), *LARGE, value=3)
    assert np.full(LARGE, 6).tolist() == answer.tolist()
    assert [(True, None)] == [
        (by_reference, call.arena)
        for by_reference, call in zip(replicas.by_reference, replicas.calls, strict=True)
    ]


async def test_a_full_arena_sends_what_no_message_carries_by_reference_this_once() -> None:
    replicas = Replicas()
    arena = Arena(4 * MiB)
    model = served(replicas, arena)
    taken = arena.allocate(3 * MiB)
    columns = MESSAGE_BYTES // 4 + 1
    assert 6 == (await infer(model, 1, columns, value=3))[0, -1]
    assert [True] == replicas.by_reference
    del taken
    gc.collect()
    assert 6 == (await infer(model, 1, columns, value=3))[0, -1]
    assert [True, False] == replicas.by_reference


async def test_a_full_arena_leaves_what_a_message_carries_in_the_call() -> None:
    replicas = Replicas()
    arena = Arena(MiB)
    taken = arena.allocate(arena.free_bytes)
    assert 6 == (await infer(served(replicas, arena), *LARGE, value=3))[0, -1]
    assert ([False], [False]) == (placed(replicas), replicas.by_reference)
    assert taken is not None


@pytest.mark.parametrize(("more", "by_reference"), [(0, False), (1, True)])
async def test_small_tensors_that_make_too_large_a_message_go_by_reference(
    more: int, by_reference: bool
) -> None:
    replicas = Replicas()
    model = served(replicas, Arena(MiB))
    info = replace(INFO, max_batch_rows=1000)
    sent = Tensor("x", "FP32", SMALL, np.ones(SMALL, np.float32))
    count = MESSAGE_BYTES // INLINE_BYTES + more
    await asyncio.gather(*(model.infer(info, [sent], (), 30) for _ in range(count)))
    assert ([count], [by_reference]) == (replicas.batch_sizes, replicas.by_reference)


async def test_a_replica_that_cannot_map_the_arena_gets_calls_by_reference_for_a_while() -> None:
    replicas = Replicas()
    replicas.outcomes = [Unreachable("another node", lasting=True)]
    model = served(replicas, Arena(MiB))
    for _ in range(_BY_REFERENCE_AFTER_FAILURE + 2):
        assert 2 == (await infer(model, 1, 1)).item()
    expected = [False, True, *[True] * _BY_REFERENCE_AFTER_FAILURE, False]
    assert expected == replicas.by_reference


# Answers in the model's arena -------------------------------------------------------------------


def leased(arena: Arena, *tensors: Tensor) -> tuple[PackedTensor, ...]:
    return pack_leased(tensors, arena, arena.address.pid)


def output(rows: int, value: float) -> Tensor:
    data = np.full((rows, INLINE_BYTES), value, np.float32)
    return Tensor("twice", "FP32", data.shape, data)


def test_answers_in_the_models_memory_are_read_there_and_given_back() -> None:
    models_arena = Arena(MiB)
    free = models_arena.free_bytes

    async def ask() -> None:
        members = tuple(leased(models_arena, output(1, value)) for value in (5.0, 6.0))
        replicas = Replicas()
        replicas.outcomes = [BatchReply(members, models_arena.address)]
        model = served(replicas, Arena(MiB))
        answers = await asyncio.gather(infer(model, 1, 1), infer(model, 1, 1))
        assert [5, 6] == [answer[0, -1] for answer in answers]
        gc.collect()
        assert free > models_arena.free_bytes

    asyncio.run(ask())
    gc.collect()
    assert free == models_arena.free_bytes


async def test_an_answer_that_cannot_be_read_is_asked_for_again_by_reference() -> None:
    models_arena = Arena(MiB)
    good = leased(models_arena, output(1, 5.0))
    outside = (("twice", "FP32", (1, MiB), models_arena.address.size - 64),)
    replicas = Replicas()
    replicas.outcomes = [BatchReply((outside, good), models_arena.address)]
    model = served(replicas, Arena(MiB))
    answers = await asyncio.gather(infer(model, 1, 1, value=3), infer(model, 1, 1, value=4))
    assert [6, 8] == [answer[0, -1] for answer in answers]
    assert [False, True] == replicas.by_reference


async def test_a_batch_that_is_sent_again_crosses_in_shared_memory_again() -> None:
    replicas = Replicas()
    replicas.outcomes = [ReplicaDied("ActorDiedError")]
    assert 6 == (await infer(served(replicas, Arena(MiB)), *LARGE, value=3))[0, -1]
    assert ([True, True], [False, False]) == (placed(replicas), replicas.by_reference)
