"""Serving a new shape by the compilation for all shapes, and what that cannot do."""

import asyncio
import threading

import numpy as np
import pytest

from deployments.errors import InferenceFailed, ShapeNotSupported
from deployments.inference import ShapeKey
from deployments.model.openvino.runtime import CannotReshape
from deployments.model.openvino.spots import spots_model
from tests.model import models
from tests.model.loading import loaded, tensor
from tests.model.serving import PATIENCE_S, arrays, counted, holds, serving, tampered

ROW = [[1, 2, 3, 4]]
ROW_AND_ONE = [[2, 3, 4, 5]]


async def test_a_shape_that_keeps_coming_gets_its_own_compilation() -> None:
    version = loaded(models.add_one())
    dynamic = tampered(version)
    dynamic.slow_s = 0.002
    async with serving(version, promote_after=3) as served:
        for requests in (3, 1):
            for _ in range(requests):
                await served.ask([tensor(ROW)])
            await served.settled()
        before = len(dynamic.rows)
        (answer,) = await served.ask([tensor(ROW)])
    np.testing.assert_array_equal([ROW_AND_ONE], arrays(answer))
    assert before == len(dynamic.rows)
    assert (1, 1) == tuple(served.statistics()[name] for name in ("compiles", "hits"))


async def test_a_shape_that_the_compilation_for_all_serves_as_fast_stays_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deployments.model.versions.promotion._Trial.verdict", lambda *_: False)
    async with serving(loaded(models.add_one()), promote_after=3) as served:
        for _ in range(6):
            (answer,) = await served.ask([tensor(ROW)])
            await served.settled()
    np.testing.assert_array_equal([ROW_AND_ONE], arrays(answer))
    statistics = served.statistics()
    assert (1, 0, 1) == tuple(
        statistics[name] for name in ("compiles", "compiled_shapes", "not_worth_it")
    )


async def test_a_model_that_refuses_open_dimensions_blocks() -> None:
    async with serving(loaded(models.refuses_open_dimensions())) as served:
        (answer,) = await served.ask([tensor(np.ones((1, 8, 6, 6)))])
        assert isinstance(answer, list)
        assert 1 == served.statistics()["compiled_shapes"]
        assert not served.statistics()["dynamic"]


async def test_what_the_dynamic_compilation_cannot_do_is_tried_by_one_of_its_own() -> None:
    version = loaded(models.add_one())
    dynamic = tampered(version)
    dynamic.fails = holds(4)
    async with serving(version) as served:
        bad, good = await served.ask([tensor(ROW)], [tensor([[0, 0, 0, 0]])])
        np.testing.assert_array_equal([ROW_AND_ONE], arrays(bad))
        np.testing.assert_array_equal([[[1, 1, 1, 1]]], arrays(good))
        assert [1, 1] == dynamic.rows
        await served.ask([tensor(ROW)])
        await served.settled()  # it was compared, as far as that can be
        del dynamic.rows[:]
        (again,) = await served.ask([tensor(ROW)])
        np.testing.assert_array_equal([ROW_AND_ONE], arrays(again))
        assert [] == dynamic.rows  # the shape has its own compilation now


async def test_members_that_the_dynamic_compilation_answered_keep_their_answers() -> None:
    version = loaded(models.add_one())
    tampered(version).fails = holds(4)

    def refuses(key: ShapeKey) -> None:
        raise CannotReshape("the model refuses it")

    version.reshape = refuses  # type: ignore[method-assign, assignment]
    async with serving(version) as served:
        good, bad, other = await served.ask(*([tensor([[n] * 4])] for n in (3, 4, 5)))
    np.testing.assert_array_equal([[[4, 4, 4, 4]]], arrays(good))
    np.testing.assert_array_equal([[[6, 6, 6, 6]]], arrays(other))
    assert isinstance(bad, ShapeNotSupported)
    assert "model 'm' cannot run at x [1,4]: the model refuses it" == bad.message


async def test_what_fails_in_both_compilations_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = models.to_shape()
    version = loaded(model, shape={"x": "(6)", "shape": "(2)"})
    assert version.dynamic is not None
    async with serving(version) as served:
        (bad,) = await served.ask([tensor([1] * 6), tensor([9, 9], "INT64", "shape")])
        assert isinstance(bad, InferenceFailed)
        assert 1 == served.statistics()["compiled_shapes"]


async def test_requests_that_fail_by_their_data_do_not_compile_again_and_again() -> None:
    version = loaded(models.to_shape(), shape={"x": "(6)", "shape": "(2)"})
    calls = counted(version)
    async with serving(version, bound=1) as served:
        for _ in range(3):
            (answer,) = await served.ask([tensor([1] * 6), tensor([9, 9], "INT64", "shape")])
            assert isinstance(answer, InferenceFailed)
    assert 1 == sum(calls.values())


async def test_compilations_for_what_the_dynamic_one_cannot_do_have_a_budget() -> None:
    version = loaded(models.add_one())
    tampered(version).fails = lambda tensors: True
    async with serving(version, compiles_per_minute=2) as served:
        answers = [(await served.ask([tensor([[1] * n])]))[0] for n in (2, 3, 4)]
    assert [False, False, True] == [isinstance(a, InferenceFailed) for a in answers]


async def test_shapes_that_the_model_refuses_cost_nothing_of_the_budget() -> None:
    version = loaded(models.add_one())
    tampered(version).fails = lambda tensors: True
    reshape = version.reshape

    def refuses(key: ShapeKey) -> None:
        raise CannotReshape("the model refuses it")

    async with serving(version, compiles_per_minute=1) as served:
        version.reshape = refuses  # type: ignore[method-assign, assignment]
        for _ in range(3):
            (answer,) = await served.ask([tensor(ROW)])
            assert isinstance(answer, ShapeNotSupported)
        version.reshape = reshape  # type: ignore[method-assign]
        assert served._shapes.demand.spend()


async def test_rows_of_nothing_that_the_model_cannot_do_are_refused_as_a_shape() -> None:
    version = loaded(models.add_one())
    tampered(version).fails = lambda tensors: True
    async with serving(version, compiles_per_minute=1) as served:
        served._shapes.demand.spend()
        (answer,) = await served.ask([tensor(np.ones((0, 4)))])
    assert isinstance(answer, ShapeNotSupported)
    assert "x [0,4]" in answer.message


async def test_a_stacked_batch_of_which_one_member_fails_answers_the_others() -> None:
    version = loaded(models.add_one(), stacking="always")
    dynamic = tampered(version)
    dynamic.fails = holds(4)
    async with serving(version) as served:
        answers = await served.ask(*([tensor([[n] * 4])] for n in (3, 4, 5)))
    assert [3, 1, 1, 1] == [dynamic.rows[0], *sorted(dynamic.rows[1:])]
    for n, answer in zip((3, 4, 5), answers, strict=True):
        np.testing.assert_array_equal([[[n + 1] * 4]], arrays(answer))


async def test_who_leaves_is_waited_for_while_its_tensors_are_read() -> None:
    version = loaded(models.add_one())
    dynamic = tampered(version)
    dynamic.held = threading.Event()
    async with serving(version) as served:
        leaving = asyncio.create_task(served.ask([tensor(ROW)]))
        assert await asyncio.to_thread(dynamic.began.wait, PATIENCE_S)
        for _ in range(2):
            leaving.cancel()
            await asyncio.sleep(0)
        assert not leaving.done()
        dynamic.held.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        (answer,) = await served.ask([tensor(ROW)])
    np.testing.assert_array_equal([ROW_AND_ONE], arrays(answer))


async def test_a_blocking_detector_gives_the_same_batches() -> None:
    version = loaded(spots_model(), stacking="always", background=False)
    picture = np.random.default_rng(0).random((1, 3, 64, 64)) * 255
    requests = [[tensor(np.roll(picture, n, 3), name="data")] for n in (0, 20, 40)]
    async with serving(version, blocking=True) as served:
        before = await served.ask(*requests)
        await served.settled()
        after = await served.ask(*requests)
        alone = [answer for request in requests for answer in await served.ask(request)]
        assert 2 == served.statistics()["stacked_batches"]
        assert 1 == served.statistics()["compiled_shapes"]
    for answers in (before, after):
        for expected, actual in zip(alone, answers, strict=True):
            np.testing.assert_allclose(arrays(expected), arrays(actual), rtol=0, atol=1e-5)
