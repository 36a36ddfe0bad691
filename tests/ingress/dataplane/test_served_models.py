"""Requests for models whose versions change."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from deployments import timing
from deployments.errors import VersionChanged, VersionNotFound, WrongRank
from deployments.inference import (
    InferRequest,
    InferResponse,
    InputSpec,
    ModelInfo,
    ModelStatus,
    available,
)
from deployments.ingress.dataplane import served_models as module
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.settings import Limits
from tests.ingress.replicas import AVAILABLE, INFO, Replicas, served, tensor

GONE = VersionChanged("doubler", "2")
NEXT = replace(INFO, version="3", versions=("3",))


def models(replicas: Replicas) -> ServedModels:
    return ServedModels({"doubler": served(replicas)}, Limits(), None)


async def infer(
    served_models: ServedModels, replicas: Replicas, then: ModelStatus, version: str | None = None
) -> InferResponse:
    """The answer to a request that was in flight when the replicas changed."""
    target = await served_models.addressed("doubler", version)
    replicas.status_now = then
    return await served_models.infer(target, InferRequest((tensor(2, 3),)), time.monotonic())


async def test_a_request_goes_to_the_version_that_took_the_place_of_its_own() -> None:
    replicas = Replicas()
    replicas.outcomes = [[GONE], [GONE]]
    response = await infer(models(replicas), replicas, available(NEXT))
    assert "3" == response.version
    assert [INFO.revision, NEXT.revision, NEXT.revision] == [c.revision for c in replicas.calls]


async def test_a_request_for_a_version_goes_to_that_one_alone() -> None:
    replicas = Replicas()
    replicas.outcomes = [[GONE]]
    response = await infer(models(replicas), replicas, AVAILABLE, "2")
    assert "2" == response.version
    replicas.outcomes = [[GONE]]
    with pytest.raises(VersionNotFound, match="has no version '2', known: 3"):
        await infer(models(replicas), replicas, available(NEXT), "2")


async def test_a_request_is_checked_against_the_new_rules() -> None:
    replicas = Replicas()
    replicas.outcomes = [[GONE]]
    flat: ModelInfo = replace(INFO, inputs=(InputSpec("x", "FP32", INFO.inputs[0].dims[:1], 0),))
    with pytest.raises(WrongRank, match=r"input 'x' has 2 dimensions \[2,3\], the model takes 1"):
        await infer(models(replicas), replicas, available(flat))


async def test_replicas_that_disagree_for_ever_end_in_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "VERSION_CHANGE_S", 0.0)
    replicas = Replicas()
    replicas.outcomes = [[GONE]] * 100
    with pytest.raises(VersionChanged, match="changed while the request was in flight"):
        await infer(models(replicas), replicas, AVAILABLE)
    assert 1 + module._CHANGES == len(replicas.calls)


async def test_models_come_and_go_in_the_order_of_their_names() -> None:
    first, second = served(Replicas()), served(Replicas())
    served_models = ServedModels({"a": first, "b": second}, Limits(), None)
    third: Any = served(Replicas())
    assert [first] == served_models.change(["c", "b"], {"c": third})
    assert (third, second) == (served_models.named("c"), served_models.named("b"))
    assert ["c", "b"] == list(await served_models.statuses())


async def test_models_that_come_and_go_while_all_are_asked_do_not_disturb() -> None:
    class Slow(Replicas):
        async def status(self) -> ModelStatus:
            asked.set()
            await changed.wait()
            return await super().status()

    asked, changed = asyncio.Event(), asyncio.Event()
    served_models = ServedModels({"a": served(Replicas()), "b": served(Slow())}, Limits(), None)
    asking = asyncio.ensure_future(served_models.statuses())
    await asked.wait()
    served_models.change(["a"], {})
    changed.set()
    assert {"a": AVAILABLE, "b": AVAILABLE} == await asking
    served_models.change(["c", "d", "a"], {"c": served(Replicas()), "d": served(Replicas())})
    assert ["c", "d", "a"] == list(await served_models.statuses())
