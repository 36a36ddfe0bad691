"""What is compiled wrongly answers nothing, or not for long, and is told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.inference import ShapeKey
from deployments.model.openvino.compiled_model import (
    CannotInfer,
    CompiledShape,
    Space,
    no_allocation,
)
from deployments.model.versions.loaded import LoadedModel
from deployments.model.versions.promotion import _Trial
from deployments.observability.metrics import SHAPES_DIFFERING
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import dynamic, loaded, tensor
from tests.model.serving import Served, arrays, serving
from tests.watching import Recorded

ROW = [[1, 2, 3, 4]]
RIGHT = [[2, 3, 4, 5]]
KEY = ((1, 4),)


class Wrong(CompiledShape):
    """Adds `error` to what it answers."""

    def __init__(self, compiled: CompiledShape, error: float = 1.0) -> None:
        super().__init__(compiled._requests, compiled._outputs)
        self.error = error

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = no_allocation
    ) -> list[Tensor]:
        (output,) = super().infer(tensors, wanted, space)
        assert not isinstance(output.data, list)
        return [Tensor(output.name, output.datatype, output.shape, output.data + self.error)]


class WrongAtSmall(Wrong):
    """Where all that it is given is small."""

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = no_allocation
    ) -> list[Tensor]:
        small = np.abs(np.asarray(tensors[0].data)).max() < 0.5
        answers = super().infer if small else super(Wrong, self).infer
        return answers(tensors, wanted, space)


class Failing(CompiledShape):
    def infer(self, *arguments: Any, **more: Any) -> list[Tensor]:
        raise CannotInfer("no")


def with_wrong_static(version: LoadedModel, error: float = 1.0, how: type[Wrong] = Wrong) -> None:
    reshape = version.reshape

    def wrong(key: ShapeKey) -> Callable[[], CompiledShape]:
        compile_it = reshape(key)
        return lambda: how(compile_it(), error)

    version.reshape = wrong  # type: ignore[method-assign]


def with_wrong_dynamic(version: LoadedModel) -> None:
    version.dynamic = Wrong(dynamic(version))


def with_wrong_reference(version: LoadedModel, error: float = 0.5) -> None:
    reference = version.reference
    version.reference = lambda key: Wrong(reference(key), error)  # type: ignore[method-assign]


async def answers(served: Served, count: int = 12) -> list[list[Any]]:
    """Of requests one after the other, with what is done in between."""
    got = []
    for _ in range(count):
        (answer,) = await served.ask([tensor(ROW)])
        got.append(arrays(answer)[0].tolist())
        await served.settled()
    return got


async def test_a_static_compilation_that_is_wrong_never_answers() -> None:
    version, seen = loaded(models.add_one()), Recorded()
    with_wrong_static(version)
    async with serving(version, promote_after=2, telemetry=seen) as served:
        assert [RIGHT] * 12 == await answers(served)
        statistics, report = served.statistics(), await served.shapes()
        assert (1, 0, 1) == tuple(
            statistics[name] for name in ("compiles", "compiled_shapes", "shapes_differing")
        )
        assert "x [1,4] the static compilation differs" in served.remark
    assert {("m",): 1} == seen.of(SHAPES_DIFFERING)
    differing = report.shapes[KEY].differing
    assert differing is not None
    assert 1 / 6 == pytest.approx(differing.largest)
    assert ({"x": {"min": 1.0, "max": 4.0, "mean": 2.5}}, "y") == (
        differing.inputs,
        differing.output,
    )
    assert differing.verdict.endswith("the dynamic one answers")


@pytest.mark.parametrize("warm", [False, True])
async def test_a_static_compilation_that_is_wrong_at_other_values_than_those_sent_never_answers(
    warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Trial, "verdict", lambda *_: True)  # clearly faster
    version = loaded(models.add_one())
    with_wrong_static(version, how=WrongAtSmall)
    async with serving(version, promote_after=2) as served:
        if warm:
            await served.warm_up([[(1, 4)]])
        assert [RIGHT] * 12 == await answers(served)
        (small,) = await served.ask([tensor([[0.1, 0, 0, 0]])])
        np.testing.assert_allclose(arrays(small)[0], [[1.1, 1, 1, 1]], 1e-6)
        assert 0 == served.statistics()["compiled_shapes"]
        assert "x [1,4] the static compilation differs" in served.remark


async def test_random_inputs_on_which_none_agrees_are_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Trial, "verdict", lambda *_: True)
    version = loaded(models.add_one())
    with_wrong_static(version, how=WrongAtSmall)
    with_wrong_reference(version)
    async with serving(version, promote_after=2) as served:
        assert [RIGHT] * 12 == await answers(served)
        assert 1 == served.statistics()["compiled_shapes"]
        assert "" == served.remark


async def test_a_difference_within_rounding_is_none() -> None:
    version = loaded(models.add_one())
    with_wrong_static(version, 1e-4)  # the largest value is 5
    async with serving(version, promote_after=2) as served:
        await answers(served)
        assert (1, 0) == (served.statistics()["compiled_shapes"], len(served._trials.differing))
        assert "" == served.remark


async def test_where_the_dynamic_compilation_is_wrong_each_shape_waits_for_its_own() -> None:
    version = loaded(models.add_one())
    with_wrong_dynamic(version)
    async with serving(version, promote_after=2) as served:
        got = await answers(served)
        assert RIGHT != got[0]
        assert RIGHT == got[-1]
        (other,) = await served.ask([tensor([[1, 2, 3, 4, 5]])])
        np.testing.assert_array_equal([[[2, 3, 4, 5, 6]]], arrays(other))
        assert "each shape of the model waits for its own" in served.remark


async def test_where_none_agrees_the_dynamic_one_answers_and_the_status_says_so() -> None:
    version = loaded(models.add_one())
    with_wrong_static(version)
    with_wrong_reference(version)
    async with serving(version, promote_after=2) as served:
        assert [RIGHT] * 12 == await answers(served)
        assert "which may be wrong" in served.remark


async def test_what_a_blocking_model_answers_is_checked_once_and_replaced_where_it_is_wrong() -> (
    None
):
    version = loaded(models.add_one(), background=False)
    with_wrong_static(version)
    async with serving(version, blocking=True) as served:
        got = await answers(served, 3)
        assert [False, True, True] == [answer == RIGHT for answer in got]
        assert "one without optimisations, which answers from now on" in served.remark
        assert 1 == len(served._trials.differing)


async def test_what_a_blocking_model_answers_rightly_is_checked_once() -> None:
    version, references = loaded(models.add_one(), background=False), list[ShapeKey]()
    reference = version.reference

    def counted(key: ShapeKey) -> CompiledShape:
        references.append(key)
        return reference(key)

    version.reference = counted  # type: ignore[method-assign]
    async with serving(version, blocking=True) as served:
        assert [RIGHT] * 4 == await answers(served, 4)
        assert "" == served.remark
    assert [KEY] == references


async def test_a_model_of_one_shape_is_checked_too() -> None:
    version = loaded(models.add_one(), shape="(1,4)")
    version.dynamic = Wrong(dynamic(version))
    async with serving(version) as served:
        got = await answers(served, 3)
        assert [False, True, True] == [answer == RIGHT for answer in got]
        assert "which answers from now on" in served.remark


async def test_a_warm_up_shape_that_is_compiled_wrongly_never_answers() -> None:
    version = loaded(models.add_one())
    with_wrong_static(version)
    async with serving(version) as served:
        await served.warm_up([[(1, 4)]])
        assert [RIGHT] * 3 == await answers(served, 3)
        assert 1 == len(served._trials.differing)


async def test_a_warm_up_shape_is_compared_on_what_its_first_request_sends_too() -> None:
    version = loaded(models.add_one())
    async with serving(version) as served:
        await served.warm_up([[(1, 4)]])
        assert served._shapes.unchecked(KEY) is not None
        assert [RIGHT] == await answers(served, 1)
        assert served._shapes.unchecked(KEY) is None
        assert 1 == served.statistics()["compiled_shapes"]


async def test_what_cannot_be_compared_ends_a_trial_not_the_server() -> None:
    version = loaded(models.add_one())
    reshape = version.reshape

    def failing(key: ShapeKey) -> Callable[[], CompiledShape]:
        compiled = reshape(key)()
        return lambda: Failing(compiled._requests, compiled._outputs)

    version.reshape = failing  # type: ignore[method-assign]
    async with serving(version, promote_after=2) as served:
        assert [RIGHT] * 6 == await answers(served, 6)
        assert (0, 1) == tuple(
            served.statistics()[name] for name in ("compiled_shapes", "not_worth_it")
        )


async def test_a_version_closes_while_a_comparison_waits_for_its_turn() -> None:
    version = loaded(models.add_one(), background=False)
    async with serving(version, blocking=True) as served:
        await served.ask([tensor(ROW)])
        assert served._trials._task is not None
    assert served._trials._task.done()


async def test_requests_go_on_while_others_are_compared() -> None:
    version = loaded(models.add_one())
    with_wrong_static(version)
    async with serving(version, promote_after=2) as served:
        got = await asyncio.gather(*(served.ask([tensor(ROW)]) for _ in range(100)))
        assert [RIGHT] * 100 == [arrays(answer)[0].tolist() for (answer,) in got]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([9.0, 0.8, 0.8, 0.8, 0.8], None),
        ([9.0, 0.8, 0.8, 0.8, 0.8, 0.8], True),
        ([0.1, 1.1, 1.2, 1.0], False),
        ([0.1, 0.95, 0.95, 0.95, 0.95, 0.95], False),
        ([0.1, 0.8, 1.5, 0.8, 1.5, 0.8], True),
    ],
    ids=["four", "five", "three lost", "no tenth", "noise"],
)
def test_a_static_compilation_has_to_be_faster_by_a_tenth(
    monkeypatch: pytest.MonkeyPatch, ratios: list[float], expected: bool | None
) -> None:
    monkeypatch.undo()  # no test's models, no chance
    trial = _Trial()
    assert expected is [trial.verdict(ratio) for ratio in ratios][-1]
