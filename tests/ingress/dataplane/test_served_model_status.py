"""The cached status of a model: it is asked for rarely, by one task for all callers."""

import asyncio
import contextvars
from dataclasses import replace

import pytest

from deployments import timing
from deployments.errors import ModelUnavailable, VersionNotFound
from deployments.inference import ModelStatus, VersionStatus, available
from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.ingress.dataplane.served_model import ServedModel
from deployments.ingress.dataplane.status_cache import _SILENCES
from deployments.observability.shape_records import CacheBounds, ShapesReport
from tests.ingress.dataplane.batches import quiet
from tests.ingress.replicas import AVAILABLE, INFO, Replicas, served

LOADING = ModelStatus("LOADING", "it is being loaded")
BROKEN = ModelStatus("UNAVAILABLE", "the file is broken")


class Clock:
    """A replacement for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("deployments.ingress.dataplane.status_cache.time", clock)
    return clock


async def ask_again(model: ServedModel, clock: Clock) -> ModelStatus:
    """The status after it has expired and the replicas were asked again."""
    clock.now += timing.STATUS_FRESH_S
    await model.status()
    await quiet()
    return await model.status()


async def test_concurrent_callers_wait_for_one_question() -> None:
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    askers = [asyncio.create_task(model.status()) for _ in range(5)]
    await quiet()
    assert [False] * 5 == [asker.done() for asker in askers]
    replicas.open.set()
    assert [AVAILABLE] * 5 == await asyncio.gather(*askers)
    assert 1 == replicas.asked


@pytest.mark.parametrize("status", [AVAILABLE, LOADING, BROKEN], ids=lambda status: status.state)
async def test_an_answer_is_good_for_a_while(status: ModelStatus, clock: Clock) -> None:
    replicas = Replicas(status)
    model = served(replicas)
    assert status is await model.status()
    clock.now += timing.STATUS_FRESH_S - 0.01
    assert status is await model.status()
    assert 1 == replicas.asked
    assert status is await ask_again(model, clock)
    assert 2 == replicas.asked


async def test_a_model_that_has_loaded_is_noticed(clock: Clock) -> None:
    replicas = Replicas(LOADING)
    model = served(replicas)
    assert LOADING is await model.status()
    replicas.status_now = AVAILABLE
    clock.now += timing.STATUS_FRESH_S
    assert AVAILABLE is await model.status()


async def test_no_request_waits_for_a_busy_model_that_has_answered_before(clock: Clock) -> None:
    replicas = Replicas()
    model = served(replicas)
    await model.status()
    replicas.open.clear()
    replicas.status_now = BROKEN
    clock.now += timing.STATUS_FRESH_S
    for _ in range(3):
        assert AVAILABLE is await model.status()
        await quiet()
    assert 2 == replicas.asked
    replicas.open.set()


async def test_a_loaded_model_is_unavailable_when_replicas_say_so_again_and_again(
    clock: Clock,
) -> None:
    """One refusal may come from a single replica that is loading while others serve."""
    replicas = Replicas()
    model = served(replicas)
    await model.status()
    replicas.status_now = BROKEN
    for _ in range(3):
        clock.now += timing.STATUS_FRESH_S
        await model.status()
        await quiet()
        assert AVAILABLE is await model.status()
    clock.now += timing.STATUS_FRESH_S
    await model.status()
    await quiet()
    assert BROKEN is await model.status()


async def test_an_asker_that_leaves_does_not_take_the_question_along() -> None:
    replicas = Replicas()
    replicas.open.clear()
    model = served(replicas)
    askers = [asyncio.create_task(model.status()) for _ in range(2)]
    await quiet()
    askers[0].cancel()
    await quiet()
    replicas.open.set()
    assert AVAILABLE is await askers[1]
    assert 1 == replicas.asked


asker_name: contextvars.ContextVar[str] = contextvars.ContextVar("asker_name", default="nobody")


async def test_the_question_is_not_asked_in_the_context_of_an_asker() -> None:
    class Listening(Replicas):
        async def status(self) -> ModelStatus:
            heard.append(asker_name.get())
            return await super().status()

    heard: list[str] = []
    asker_name.set("somebody")
    await served(Listening()).status()
    assert ["nobody"] == heard


# Silence ----------------------------------------------------------------------------------------


async def test_a_silent_model_is_loading_while_it_may_be_starting(clock: Clock) -> None:
    replicas = Replicas(TimeoutError())
    model = served(replicas)
    for _ in range(_SILENCES + 1):
        assert "LOADING" == (await ask_again(model, clock)).state
    clock.now += timing.STARTING_S
    status = await model.status()
    assert ("UNAVAILABLE", "none of its replicas answers") == (status.state, status.reason)


@pytest.mark.parametrize("silence", [TimeoutError(), ReplicaDied("ActorDiedError")])
async def test_a_model_that_falls_silent_is_unavailable_after_a_few_silences_in_a_row(
    silence: Exception, clock: Clock
) -> None:
    replicas = Replicas()
    model = served(replicas)
    await model.status()
    for _ in range(2):  # an answer in between starts the count anew
        replicas.status_now = silence
        for _ in range(_SILENCES - 1):
            assert AVAILABLE is await ask_again(model, clock)
        replicas.status_now = AVAILABLE
        assert AVAILABLE is await ask_again(model, clock)
    replicas.status_now = silence
    for _ in range(_SILENCES - 1):
        await ask_again(model, clock)
    assert "UNAVAILABLE" == (await ask_again(model, clock)).state
    with pytest.raises(ModelUnavailable, match="none of its replicas answers"):
        await model.info()


async def test_a_model_that_answers_again_is_available_again(clock: Clock) -> None:
    replicas = Replicas()
    model = served(replicas)
    await model.status()
    replicas.status_now = TimeoutError()
    for _ in range(_SILENCES):
        await ask_again(model, clock)
    assert "UNAVAILABLE" == (await model.status()).state
    replicas.status_now = AVAILABLE
    clock.now += timing.STATUS_FRESH_S
    assert INFO is await model.info()


# Errors of a request ----------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "answers"), [(None, "2"), ("1", "1"), ("2", "2")])
async def test_a_known_version_has_its_info(version: str | None, answers: str) -> None:
    assert replace(INFO, version=answers) == await served(Replicas()).info(version)


@pytest.mark.parametrize("version", ["3", "02", "", "latest"])
async def test_the_error_of_an_unknown_version_lists_the_known_ones(version: str) -> None:
    with pytest.raises(VersionNotFound) as caught:
        await served(Replicas()).info(version)
    assert f"model 'doubler' has no version '{version}', known: 1, 2" == caught.value.message


@pytest.mark.parametrize("status", [LOADING, BROKEN], ids=lambda status: status.state)
async def test_a_model_that_cannot_answer_says_why(status: ModelStatus) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await served(Replicas(status)).info()
    assert f"model 'doubler' is not available: {status.reason}" == caught.value.message


async def test_info_that_is_known_is_not_waited_for(clock: Clock) -> None:
    replicas = Replicas()
    model = served(replicas)
    assert INFO is await model.info()
    replicas.open.clear()
    clock.now += 3 * timing.STATUS_FRESH_S
    assert INFO is await model.info()


async def test_after_a_pause_no_old_status_is_returned(clock: Clock) -> None:
    replicas = Replicas()
    model = served(replicas)
    await model.info()
    replicas.status_now = available(replace(INFO, version="3"))
    clock.now += 3600
    assert "3" == (await model.info("3")).version
    replicas.status_now = TimeoutError()
    clock.now += 3600
    assert "3" == (await model.info()).version


async def test_a_version_that_cannot_answer_is_reported_with_its_reason() -> None:
    broken = VersionStatus("3", "UNAVAILABLE", "m.bin is missing")
    leaving = VersionStatus("1", "UNLOADING", "it is being unloaded")
    known = VersionStatus("2", "AVAILABLE", "", INFO)
    model = served(Replicas(ModelStatus("AVAILABLE", "", (leaving, known, broken))))
    with pytest.raises(ModelUnavailable, match="not available: version 3: m"):
        await model.info("3")
    with pytest.raises(VersionNotFound):
        await model.info("1")


async def test_statistics_come_from_the_replicas() -> None:
    assert [{"asked": 0}] == await served(Replicas()).statistics()


async def test_shapes_come_from_the_replicas_that_have_the_version() -> None:
    replicas = Replicas()
    report = ShapesReport(0.0, CacheBounds(16, 8))
    replicas.reports = [None, report]
    assert [report] == await served(replicas).shapes("2")


async def test_shapes_that_no_replica_knows_are_unavailable_with_the_reason() -> None:
    replicas = Replicas()
    replicas.reports = [None, None]
    with pytest.raises(ModelUnavailable, match="none of its replicas has loaded version 2"):
        await served(replicas).shapes("2")


@pytest.mark.parametrize("silence", [TimeoutError(), ReplicaDied("ActorDiedError")])
async def test_shapes_of_which_a_replica_does_not_tell_are_unavailable(silence: Exception) -> None:
    replicas = Replicas()
    replicas.reports = silence
    with pytest.raises(ModelUnavailable, match="not all of its replicas answer"):
        await served(replicas).shapes("2")
