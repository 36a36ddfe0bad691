"""Inferences over one stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.ingress.grpc.calls import Context, doubled, infer_request, methods
from tests.ingress.replicas import Replicas


async def given(messages: Sequence[Message | bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message if isinstance(message, bytes) else message.SerializeToString()


async def test_a_stream_goes_on_after_an_error_and_keeps_its_order() -> None:
    final = infer_request(3, id="c")
    final.parameters["triton_enable_empty_final_response"].bool_param = True
    requests: list[Message | bytes] = [
        infer_request(1, id="a"),
        infer_request(2, id="b", model="other"),
        b"\xff",
        final,
    ]
    answers: list[Any] = [
        answer async for answer in methods().ModelStreamInfer(given(requests), Context())
    ]
    first, second, third, fourth = answers
    assert ("", "a", [2.0]) == (
        first.error_message,
        first.infer_response.id,
        doubled(first.infer_response),
    )
    assert "is not served here" in second.error_message
    assert "b" == second.infer_response.id
    assert "the message is not the one that this method takes" in third.error_message
    assert [6.0] == doubled(fourth.infer_response)
    assert fourth.infer_response.parameters["triton_final_response"].bool_param
    assert "triton_final_response" not in first.infer_response.parameters


async def test_the_inferences_of_a_stream_run_together() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    await grpc_methods.models.addressed("doubler")
    requests = [infer_request(float(n)) for n in range(20)]
    answers = [answer async for answer in grpc_methods.ModelStreamInfer(given(requests), Context())]
    assert [[2.0 * n] for n in range(20)] == [doubled(a.infer_response) for a in answers]  # type: ignore[attr-defined]
    assert max(replicas.batch_sizes) > 1


async def test_a_stream_is_read_ahead_so_far_and_no_farther() -> None:
    replicas, read = Replicas(), list[int]()
    grpc_methods = methods(replicas)
    await grpc_methods.models.addressed("doubler")
    replicas.open.clear()

    async def counted() -> AsyncIterator[bytes]:
        for number in range(100):
            read.append(number)
            yield infer_request(float(number)).SerializeToString()

    stream = grpc_methods.ModelStreamInfer(counted(), Context())
    first = asyncio.ensure_future(anext(stream))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert 65 == len(read), "64 under way and one that waits"
    replicas.open.set()
    answers: list[Any] = [await first, *[answer async for answer in stream]]
    assert [[2.0 * n] for n in range(100)] == [doubled(a.infer_response) for a in answers]


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


async def test_a_stream_that_is_left_leaves_nothing_behind() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    model = (await grpc_methods.models.addressed("doubler")).model
    replicas.open.clear()
    stream = grpc_methods.ModelStreamInfer(given([infer_request(1)] * 3), Context())
    waiting = asyncio.ensure_future(anext(stream))
    await eventually(lambda: bool(replicas.calls))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert model._batcher is not None
    assert 0 == model._batcher.waiting
    replicas.open.set()
    await grpc_methods.models.close()
