from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from deployments.model import version as version_module
from deployments.model.first_sight import FirstSight
from deployments.model.measuring import quicker_at_first_sight
from deployments.model.runtime import CannotInfer, CompiledShape, Space, nowhere
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import FLOAT32, dynamic, input_shapes, loaded, tensor


class Building(CompiledShape):
    """Takes so many seconds, of a clock of its own, for a new shape and for an old one."""

    now_s = 0.0

    def __init__(self, new_s: float, again_s: float = 1.0) -> None:
        real = dynamic(loaded(models.add_one()))
        super().__init__(real._compiled, real._outputs)
        self.new_s, self.again_s = new_s, again_s
        self.ran: list[tuple[int, ...]] = []

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]:
        shape = tensors[0].shape
        Building.now_s += self.again_s if shape in self.ran else self.new_s
        self.ran.append(shape)
        return super().infer(tensors, wanted, space)


@pytest.fixture(autouse=True)
def _its_clock() -> Iterator[None]:
    with patch("deployments.model.measuring.time.perf_counter", lambda: Building.now_s):
        yield


def rows(*widths: int) -> list[list[Tensor]]:
    return [[tensor(np.ones((1, width)))] for width in widths]


def ran(compiled: Building) -> list[int]:
    return [shape[-1] for shape in compiled.ran]


def test_a_shape_is_new_once() -> None:
    usual, quick = Building(1), Building(1)
    both = FirstSight(usual, quick)
    for row in rows(3, 4, 3, 3, 5):
        (output,) = both.infer(row)
        np.testing.assert_array_equal(output.data, np.full((1, row[0].shape[1]), 2))
    outputs, ns = both.timed(rows(4)[0])
    assert (1, 4) == outputs[0].shape
    assert ns >= 0
    assert ([3, 4, 5], [3, 3, 4]) == (ran(quick), ran(usual))
    assert both.streams == usual.streams


def test_a_batch_of_another_size_is_a_new_shape() -> None:
    usual, quick = Building(1), Building(1)
    both = FirstSight(usual, quick)
    both.infer([tensor(np.ones((1, 3)))])
    both.infer([tensor(np.ones((2, 3)))])
    assert [(1, 3), (2, 3)] == quick.ran


def test_a_shape_that_is_long_gone_is_new_again() -> None:
    usual, quick = Building(1), Building(1)
    both = FirstSight(usual, quick)
    for row in rows(*range(1, 65), 1, 100, 1, 2, 3):
        both.infer(row)
    # 100 pushed out 2, which pushed out 3 when it came again.
    assert [*range(1, 65), 100, 2, 3] == ran(quick)
    assert [1, 1] == ran(usual)


def test_wanted_outputs_and_space_are_passed_on() -> None:
    both = FirstSight(Building(1), Building(1))
    asked: list[int] = []

    def space(nbytes: int) -> None:
        asked.append(nbytes)

    for row in rows(3, 3):
        both.infer(row, ["y"], space)
        with pytest.raises(CannotInfer):
            both.infer(row, ["no output"], space)
    assert [12, 12] == asked


def test_many_threads_may_ask() -> None:
    both = FirstSight(Building(1), Building(1))
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(both.infer, rows(*range(1, 200))))
    assert [*range(1, 200)] == [output.shape[1] for (output,) in outputs]


@pytest.mark.parametrize(
    ("usual", "quick", "taken"),
    [
        (Building(10), Building(5), True),
        (Building(10), Building(7.9), True),
        (Building(10), Building(8.1), False),
        (Building(10), Building(20), False),
    ],
    ids=["half", "faster", "not by much", "slower"],
)
def test_the_quick_one_has_to_be_quicker(usual: Building, quick: Building, taken: bool) -> None:
    found = quicker_at_first_sight(usual, lambda: quick, rows(1, 2, 3, 4, 5))
    assert (quick if taken else None) is found
    assert [1, 1, 2, 3, 4] == ran(usual)
    assert [1, 2, 3, 4] == ran(quick)


def test_nothing_more_is_compiled_where_inferences_take_longest() -> None:
    def never() -> CompiledShape:
        raise AssertionError("it was compiled")

    usual = Building(19, again_s=10)
    assert quicker_at_first_sight(usual, never, rows(1, 2, 3, 4)) is None
    assert quicker_at_first_sight(Building(19), never, []) is None


def test_too_few_shapes_tell_nothing() -> None:
    assert quicker_at_first_sight(Building(10), lambda: Building(1), rows(1, 2, 3)) is None


# In a version -----------------------------------------------------------------------------------


def measured(computes_in: str, **given: Any) -> list[Any]:
    """At which shapes a version measures, if it does; then it has both, else only the usual one."""
    seen: list[Any] = []

    def measure(usual: CompiledShape, compile_quick: Any, new: Any) -> CompiledShape:
        seen.extend(tuple(t.shape for t in row) for row in new)
        quick: CompiledShape = compile_quick()
        assert "f32" == quick._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert input_shapes(quick) == input_shapes(usual)
        return quick

    with (
        patch.object(version_module, "quicker_at_first_sight", measure),
        patch.object(CompiledShape, "computes_in", computes_in),
    ):
        version = loaded(models.convolution((1, 3, 32, 48)), **given)
    assert isinstance(version.dynamic, FirstSight if seen else CompiledShape)
    return seen


def test_a_version_measures_shapes_near_its_own_where_the_processor_computes_in_less() -> None:
    seen = measured("bf16", plugin_config={})
    assert [((1, 3, 30, 45),), ((1, 3, 34, 51),), ((1, 3, 28, 42),)] == seen[:3]
    assert 14 == len(set(seen)) == len(seen)
    assert ((1, 3, 32, 48),) not in seen


def test_of_shapes_that_are_not_accepted_none_is_measured() -> None:
    seen = measured("bf16", plugin_config={}, shape="(1,3,32:35,48:50)")
    assert [((1, 3, 34, 48),)] == seen


@pytest.mark.parametrize(
    ("computes_in", "plugin_config"),
    [
        ("f32", {}),
        ("bf16", FLOAT32),
        ("bf16", {"EXECUTION_MODE_HINT": "PERFORMANCE"}),
    ],
    ids=["it computes in float32", "the settings say in which", "the settings say what matters"],
)
def test_a_version_has_one_dynamic_compilation_where(
    computes_in: str, plugin_config: dict[str, Any]
) -> None:
    assert [] == measured(computes_in, plugin_config=plugin_config)


def test_a_model_that_refuses_what_is_measured_has_one_dynamic_compilation() -> None:
    with (
        patch.object(version_module, "quicker_at_first_sight", side_effect=CannotInfer("no")),
        patch.object(CompiledShape, "computes_in", "bf16"),
    ):
        version = loaded(models.convolution(), plugin_config={})
    assert isinstance(version.dynamic, CompiledShape)


def test_a_blocking_version_measures_nothing() -> None:
    with (
        patch.object(version_module, "quicker_at_first_sight", side_effect=AssertionError),
        patch.object(CompiledShape, "computes_in", "bf16"),
    ):
        assert loaded(models.convolution(), plugin_config={}, background=False).dynamic is None
