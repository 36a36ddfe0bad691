"""What a served version says when it cannot answer, and what becomes of the others."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from deployments.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    ServingError,
    ShapeNotSupported,
)
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import direct, loaded, tensor
from tests.model.serving import PATIENCE_S, Request, assert_answer, counted, serving, values

pytestmark = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "background"])


async def test_a_shape_that_the_model_refuses_is_refused_in_words_and_remembered(
    blocking: bool,
) -> None:
    version = loaded(models.even_sizes())
    calls = counted(version)
    async with serving(version, blocking=blocking) as served:
        for _ in range(3):
            answers = await served.ask([values(3, 3, 7, 8)], [values(2, 3, 7, 8)])
            assert [ShapeNotSupported] * 2 == [type(answer) for answer in answers]
        (good,) = await served.ask([values(1, 3, 6, 8)])
    assert_answer(direct(models.even_sizes(), [values(1, 3, 6, 8)]), good)
    assert 1 == calls[((-1, 3, 7, 8),)]
    refusal = answers[0]
    assert isinstance(refusal, ServingError)
    assert 400 == refusal.http_status
    expected = "model 'm' cannot run at x [-1,3,7,8]: the model refuses it at node 'SpaceToDepth_"
    assert refusal.message.startswith(expected)


async def test_one_member_that_fails_leaves_the_others_alone(blocking: bool) -> None:
    model = models.to_shape()
    version = loaded(model, shape={"x": "(6)", "shape": "(2)"})
    x = tensor([1, 2, 3, 4, 5, 6])
    shapes = [tensor(shape, "INT64", "shape") for shape in ([2, 3], [4, 4], [3, 2])]
    async with serving(version, blocking=blocking) as served:
        good, bad, other = await served.ask(*([x, shape] for shape in shapes))
    assert_answer(direct(model, [x, shapes[0]]), good)
    assert_answer(direct(model, [x, shapes[2]]), other)
    assert isinstance(bad, InferenceFailed)
    assert 500 == bad.http_status
    expected = "inference of model 'm' failed: OpenVINO reports an error at node 'Reshape_"
    assert bad.message.startswith(expected)
    assert "Check" not in bad.message


async def test_a_member_that_is_late_is_told_so_and_the_others_are_answered(
    blocking: bool,
) -> None:
    for stacking in (False, True):
        version = loaded(models.add_one(), stacking="always" if stacking else "never")
        async with serving(version, blocking=blocking) as served:
            answers = await served.ask(
                Request([tensor([[1, 2, 3, 4]])], late_s=1),
                [tensor([[5, 6, 7, 8]])],
                Request([tensor([[9, 9, 9, 9]])], late_s=0),
                [tensor([[0, 0, 0, 0]] * 2)],
            )
            assert stacking == served.statistics()["stacked_batches"]
        assert_answer([np.array([[6, 7, 8, 9]], np.float32)], answers[1])
        assert_answer([np.ones((2, 4), np.float32)], answers[3])
        for late in (answers[0], answers[2]):
            assert isinstance(late, DeadlineExceeded)
            assert "model 'm' did not answer within 7.5 s" == late.message


@pytest.mark.parametrize("stacking", ["always", "never"])
async def test_nothing_is_inferred_when_all_are_late(
    stacking: str, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = loaded(models.add_one(), stacking="always" if stacking == "always" else "never")

    def never(*_: object) -> list[Tensor]:
        raise AssertionError

    monkeypatch.setattr(CompiledShape, "infer", never)
    async with serving(version, blocking=blocking) as served:
        late = Request([values(1, 4)], late_s=1)
        answers = await served.ask(late, late)
    assert [DeadlineExceeded] * 2 == [type(answer) for answer in answers]


async def test_closing_lets_what_is_under_way_finish_and_takes_no_more(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, held, infer = threading.Event(), threading.Event(), CompiledShape.infer

    def slow(self: CompiledShape, *arguments: Any) -> list[Tensor]:
        began.set()
        assert held.wait(PATIENCE_S)
        return infer(self, *arguments)

    async with serving(loaded(models.add_one()), blocking=blocking) as served:
        monkeypatch.setattr(CompiledShape, "infer", slow)
        count = 1 + served.version.slots  # one of them has to wait for a slot
        under_way = [asyncio.create_task(served.ask([values(1, 4)])) for _ in range(count)]
        assert await asyncio.to_thread(began.wait, PATIENCE_S)
        closing = asyncio.create_task(served.close())
        await asyncio.sleep(0)
        (refused,) = await served.ask([values(1, 4)])
        assert isinstance(refused, ModelUnavailable)
        assert "model 'm' is not available: its version is being unloaded" == refused.message
        assert not closing.done()
        held.set()
        await closing
        answers = await asyncio.gather(*under_way)
        assert all(isinstance(answer, list) for (answer,) in answers)
