"""Requests for a model, and the answers of its replicas."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.errors import (
    DeadlineExceeded,
    DuplicateName,
    InferenceFailed,
    InvalidRequest,
    LimitExceeded,
    MissingInput,
    ModelUnavailable,
    QueueFull,
    ServingError,
    UnknownInput,
    UnknownOutput,
    VersionChanged,
    WrongDatatype,
    WrongRank,
)
from deployments.inference import ModelStatus
from deployments.ingress.dataplane.batching import SIDE_BY_SIDE_IN_FLIGHT
from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.tensors import Tensor
from deployments.transport.batches import Route, Unreachable
from tests.ingress.dataplane.batches import quiet
from tests.ingress.replicas import INFO, Replicas, infer, served, tensor


async def test_a_request_is_answered_with_the_models_outputs() -> None:
    replicas = Replicas()
    answer = await infer(served(replicas), 2, 3, value=1.5, outputs=["twice"])
    assert np.full((2, 3), 3.0).tolist() == answer.tolist()
    (call,) = replicas.calls
    assert (INFO.revision, ((-1, 3),)) == (call.revision, call.key)
    assert [(2, ("twice",))] == [(member.rows, member.outputs) for member in call.members]


async def test_requests_of_one_shape_share_a_batch_and_get_their_own_answers() -> None:
    replicas = Replicas()
    model = served(replicas)
    requests = [infer(model, 1, 3, value=value) for value in range(4)]
    answers = await asyncio.gather(*requests, infer(model, 1, 4), infer(model, 9, 3))
    assert [0, 2, 4, 6] == [answer[0, 0] for answer in answers[:4]]
    assert {((-1, 3),): [4, 1], ((-1, 4),): [1]} == {
        key: [len(call.members) for call in replicas.calls if call.key == key]
        for key in (((-1, 3),), ((-1, 4),))
    }


async def test_requests_that_are_not_stacked_wait_for_no_others_until_there_are_many() -> None:
    assert not INFO.stacks(((-1, 101),))
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    callers = []
    for _ in range(SIDE_BY_SIDE_IN_FLIGHT + 3):
        callers.append(asyncio.create_task(infer(model, 1, 101)))
        await quiet()
    replicas.open.set()
    await asyncio.gather(*callers)
    assert [1] * SIDE_BY_SIDE_IN_FLIGHT + [3] == replicas.batch_sizes


@pytest.mark.parametrize(
    ("tensors", "outputs", "error"),
    [
        ([], [], MissingInput),
        ([tensor(1, 1), Tensor("y", "FP32", (1,), np.zeros(1, np.float32))], [], UnknownInput),
        ([tensor(1, 1), tensor(1, 1)], [], DuplicateName),
        ([tensor(1)], [], WrongRank),
        ([Tensor("x", "INT32", (1, 1), np.zeros((1, 1), np.int32))], [], WrongDatatype),
        ([tensor(1, 1)], ["thrice"], UnknownOutput),
        ([tensor(1, 1)], ["twice", "twice"], DuplicateName),
        ([tensor(5, 1)], [], LimitExceeded),
    ],
)
async def test_what_the_model_does_not_take_is_refused_and_not_sent(
    tensors: Sequence[Tensor], outputs: Sequence[str], error: type[Exception]
) -> None:
    replicas = Replicas()
    with pytest.raises(error):
        await served(replicas, batch_rows=4).infer(INFO, tensors, outputs, 30)
    assert [] == replicas.calls


# Too many, too late -----------------------------------------------------------------------------


async def test_the_queue_is_full_at_its_limit_even_within_one_turn_of_the_loop() -> None:
    replicas = Replicas()
    model = served(replicas, queue_length=3)
    replicas.open.clear()
    callers = [asyncio.create_task(infer(model, 1, size)) for size in range(1, 6)]
    await quiet()
    refused = [caller.exception() for caller in callers if caller.done()]
    assert [QueueFull, QueueFull] == list(map(type, refused))
    assert "queue of model 'doubler' is full: 3 requests wait, limits.queue_length is 3" == str(
        refused[0]
    )
    replicas.open.set()
    await asyncio.gather(*callers[:3])
    assert (1, 7) == (await infer(model, 1, 7)).shape


async def test_a_request_past_its_deadline_gets_that_error() -> None:
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    with pytest.raises(DeadlineExceeded) as caught:
        await infer(model, 1, 1, timeout_s=0.01)
    assert "model 'doubler' did not answer within 0.01 s" == caught.value.message
    replicas.open.set()
    await model.close()


async def test_a_request_whose_deadline_passes_in_the_queue_is_not_sent() -> None:
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    under_way = []
    for value in range(2):
        under_way.append(asyncio.create_task(infer(model, 1, 1, value=value)))
        await quiet()
    with pytest.raises(DeadlineExceeded):
        await infer(model, 1, 1, timeout_s=0.01)
    patient = asyncio.create_task(infer(model, 1, 1, value=7))
    replicas.open.set()
    assert 14 == (await patient).item()
    await asyncio.gather(*under_way)
    assert [1, 1, 1] == replicas.batch_sizes


async def test_the_replica_gets_the_remaining_time_of_each_request() -> None:
    replicas = Replicas()
    model = served(replicas)
    await asyncio.gather(infer(model, 1, 1, timeout_s=20), infer(model, 1, 1, timeout_s=10))
    (call,) = replicas.calls
    left = [member.time_left_s for member in call.members]
    assert 15 < left[0] <= 20
    assert 5 < left[1] <= 10


async def test_a_caller_that_leaves_does_not_end_the_call_of_its_batch_mates() -> None:
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    callers = [asyncio.create_task(infer(model, 1, 1, value=value)) for value in range(2)]
    await quiet()
    callers[0].cancel()
    await quiet()
    replicas.open.set()
    assert 2 == (await callers[1]).item()
    assert [2] == replicas.batch_sizes


async def test_closing_waits_for_the_calls_in_flight() -> None:
    replicas = Replicas()
    model = served(replicas)
    await model.close()  # nothing has been asked yet
    replicas.open.clear()
    caller = asyncio.create_task(infer(model, 1, 1))
    await quiet()
    closing = asyncio.create_task(model.close())
    await quiet()
    assert not closing.done()
    replicas.open.set()
    await closing
    assert 2 == (await caller).item()


# Replicas that fail -----------------------------------------------------------------------------


async def test_a_batch_whose_replica_died_goes_to_another_once() -> None:
    replicas = Replicas()
    replicas.outcomes = [ReplicaDied("ActorDiedError")]
    model = served(replicas)
    answers = await asyncio.gather(infer(model, 1, 1, value=3), infer(model, 1, 1, value=4))
    assert [6, 8] == [answer.item() for answer in answers]
    assert [2, 2] == replicas.batch_sizes


async def test_a_batch_whose_replica_was_lost_while_it_waited_goes_to_another() -> None:
    first, second = Route("a", near=True), Route("b", near=True)
    replicas = Replicas()
    replicas.routes = [first, second]
    replicas.lost = {first}
    assert 2 == (await infer(served(replicas), 1, 1)).item()
    assert [second] == replicas.taken


async def test_two_deaths_make_the_model_unavailable_and_the_next_request_tries_anew() -> None:
    replicas = Replicas()
    replicas.outcomes = [ReplicaDied("one"), ReplicaDied("two")]
    model = served(replicas)
    with pytest.raises(ModelUnavailable, match="two of its replicas failed during this request"):
        await infer(model, 1, 1)
    assert [1, 1] == replicas.batch_sizes
    assert 2 == (await infer(model, 1, 1)).item()


@pytest.mark.parametrize("error", [InvalidRequest("bad"), InferenceFailed("doubler", "why")])
async def test_an_error_of_one_member_stays_with_it(error: ServingError) -> None:
    replicas = Replicas()
    replicas.outcomes = [[None, error, None]]
    model = served(replicas)
    requests = [infer(model, 1, 1, value=value) for value in range(3)]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert error is answers[1]
    assert [0, 4] == [answer.item() for answer in answers[::2] if isinstance(answer, np.ndarray)]


@pytest.mark.parametrize(
    "error", [ModelUnavailable("doubler", "why"), VersionChanged("doubler", "2")]
)
async def test_an_error_that_says_the_model_changed_has_its_status_asked_for(
    error: ServingError,
) -> None:
    replicas = Replicas()
    model = served(replicas)
    assert INFO is await model.info()
    loading = isinstance(error, ModelUnavailable)  # is asked of another replica, once
    replicas.outcomes = [[error]] * (1 + loading)
    replicas.outcomes.append([InvalidRequest("bad")])
    with pytest.raises(type(error)):
        await infer(model, 1, 1)
    await quiet()
    assert INFO is await model.info()
    assert 2 == replicas.asked
    with pytest.raises(InvalidRequest):
        await infer(model, 1, 1)
    assert INFO is await model.info()
    assert 2 == replicas.asked


async def test_a_replica_that_is_still_loading_sends_the_batch_to_another() -> None:
    replicas = Replicas()
    model = served(replicas)
    assert INFO is await model.info()
    replicas.status_now = ModelStatus("LOADING", "slow file")
    replicas.outcomes = [[ModelUnavailable("doubler", "slow file")]]
    assert 6 == (await infer(model, 1, 1, value=3)).item()
    await quiet()
    assert INFO is await model.info()


async def test_a_model_that_no_call_reaches_fails_with_the_reason() -> None:
    replicas = Replicas()
    replicas.outcomes = [Unreachable("the outputs are too large", lasting=False)]
    with pytest.raises(InferenceFailed, match="the outputs are too large"):
        await infer(served(replicas), 1, 1)
    assert [True] == replicas.by_reference


async def test_a_hung_replica_is_given_up_and_its_shape_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deployments.timing.REPLY_GRACE_S", 0.0)
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    for _ in range(5):  # more than are under way for one shape at once
        with pytest.raises((DeadlineExceeded, ModelUnavailable)):
            await infer(model, 1, 1, timeout_s=0.01)
    assert 3 <= len(replicas.calls)
    replicas.open.set()
    assert 6 == (await infer(model, 1, 1, value=3)).item()
