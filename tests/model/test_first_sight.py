from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest

from deployments.dimensions import Dim
from deployments.model import version as version_module
from deployments.model.apart import Apart
from deployments.model.apart_process import Recipe
from deployments.model.compiled_shape import CannotInfer, CompiledShape, Space, nowhere
from deployments.model.first_sight import FirstSight, where_it_pays
from deployments.model.measuring import building_matters, quicker_at_first_sight
from deployments.preprocessing_settings import Preprocessing
from deployments.tensors import BYTES, Tensor
from tests.model import models
from tests.model.loading import FLOAT32, dynamic, input_shapes, loaded, tensor
from tests.model.spent_time import CLOCK

pytestmark = pytest.mark.usefixtures("spent_time")


class Building(CompiledShape):
    """Takes so many seconds, of a clock of its own, for a new shape and for an old one."""

    def __init__(self, new_s: float, again_s: float = 1.0) -> None:
        real = dynamic(loaded(models.add_one()))
        super().__init__(real._requests, real._outputs)
        self.new_s, self.again_s = new_s, again_s
        self.ran: list[tuple[int, ...]] = []

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]:
        shape = tensors[0].shape
        CLOCK.spend(self.again_s if shape in self.ran else self.new_s)
        self.ran.append(shape)
        return super().infer(tensors, wanted, space)


def rows(*widths: int) -> list[list[Tensor]]:
    return [[tensor(np.ones((1, width)))] for width in widths]


def ran(compiled: Building) -> list[int]:
    return [shape[-1] for shape in compiled.ran]


RECIPE = Recipe("CPU", {}, "builtin:spots", Preprocessing(), ((Dim(1, None), Dim(1, None)),))


class Processes(Apart):
    """What runs apart runs here, and is remembered."""

    def __init__(self) -> None:
        super().__init__(RECIPE, 1)
        self.compiled = Building(1)
        self.there = True
        self.closed = False

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int] | None:
        return self.compiled.timed(tensors, wanted, space) if self.there else None

    def close(self) -> None:
        self.closed = True


def both() -> tuple[FirstSight, Building, Processes]:
    usual, apart = Building(1), Processes()
    return FirstSight(usual, apart), usual, apart


def test_a_shape_is_new_once() -> None:
    first_sight, usual, apart = both()
    for row in rows(3, 4, 3, 3, 5):
        (output,) = first_sight.infer(row)
        np.testing.assert_array_equal(output.data, np.full((1, row[0].shape[1]), 2))
    outputs, ns = first_sight.timed(rows(4)[0])
    assert (1, 4) == outputs[0].shape
    assert ns >= 0
    assert ([3, 4, 5], [3, 3, 4]) == (ran(apart.compiled), ran(usual))
    assert first_sight.streams == usual.streams


def test_where_no_process_answers_the_usual_one_does() -> None:
    first_sight, usual, apart = both()
    apart.there = False
    first_sight.infer(rows(3)[0])
    apart.there = True
    first_sight.infer(rows(3)[0])
    first_sight.infer(rows(4)[0])
    assert ([4], [3, 3]) == (ran(apart.compiled), ran(usual))


def test_a_batch_of_another_size_is_a_new_shape() -> None:
    first_sight, _, apart = both()
    first_sight.infer([tensor(np.ones((1, 3)))])
    first_sight.infer([tensor(np.ones((2, 3)))])
    assert [(1, 3), (2, 3)] == apart.compiled.ran


def test_a_shape_that_is_long_gone_is_new_again() -> None:
    first_sight, usual, apart = both()
    for row in rows(*range(1, 65), 1, 100, 1, 2, 3):
        first_sight.infer(row)
    # 100 pushed out 2, which pushed out 3 when it came again.
    assert [*range(1, 65), 100, 2, 3] == ran(apart.compiled)
    assert [1, 1] == ran(usual)


def test_wanted_outputs_and_space_are_passed_on() -> None:
    first_sight, _, _ = both()
    asked: list[int] = []

    def space(nbytes: int) -> None:
        asked.append(nbytes)

    for row in rows(3, 3):
        first_sight.infer(row, ["y"], space)
        with pytest.raises(CannotInfer):
            first_sight.infer(row, ["no output"], space)
    assert [12, 12] == asked


def test_many_threads_may_ask() -> None:
    first_sight, _, _ = both()
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(first_sight.infer, rows(*range(1, 200))))
    assert [*range(1, 200)] == [output.shape[1] for (output,) in outputs]


def test_processes_end_with_it() -> None:
    first_sight, _, apart = both()
    assert 0 == first_sight.processes
    first_sight.close()
    assert apart.closed


# What is measured -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compiled", "matters"),
    [
        (Building(0.020, 0.013), True),
        (Building(0.020, 0.014), False),
        (Building(0.006, 0.0005), True),
        (Building(0.005, 0.0005), False),
    ],
    ids=["more than half", "less than half", "it matters", "it is nothing"],
)
def test_building_matters_from_half_of_an_inference_and_some_milliseconds_on(
    compiled: Building, matters: bool
) -> None:
    new = iter(rows(1, 2, 3, 4, 5))
    assert matters == building_matters(compiled, new)
    assert [1, 1, 2, 2, 3, 3] == ran(compiled)
    assert [(1, 4), (1, 5)] == [row[0].shape for row in new]


def test_one_shape_has_to_do_where_there_is_no_other() -> None:
    assert building_matters(Building(10), rows(1))
    assert not building_matters(Building(10), [])


@pytest.mark.parametrize(
    ("usual", "quick", "quicker"),
    [
        (Building(10), Building(5), True),
        (Building(10), Building(8.9), True),
        (Building(10), Building(9.1), False),
        (Building(10), Building(20), False),
    ],
    ids=["half", "faster", "not by much", "slower"],
)
def test_the_quick_one_has_to_be_quicker(usual: Building, quick: Building, quicker: bool) -> None:
    assert quicker == quicker_at_first_sight(quick, usual, rows(1, 2, 3, 4, 5, 6, 7))
    assert [2, 3, 4, 5, 6] == ran(usual)
    assert [1, 2, 3, 4, 5, 6] == ran(quick)


def test_too_few_shapes_tell_nothing() -> None:
    assert not quicker_at_first_sight(Building(1), Building(10), rows(1, 2, 3))
    assert not quicker_at_first_sight(Building(1), Building(10), [])


def decided(
    usual: Building, processes: int | Literal["auto"] = "auto", quick: Building | None = None
) -> Apart | None:
    in_float32 = None if quick is None else lambda: quick
    new = iter(rows(*range(1, 15)))
    found = where_it_pays(usual, RECIPE, processes, in_float32, new)
    return found._apart if found else None


def test_processes_are_had_where_building_matters_and_in_the_quicker_precision() -> None:
    assert decided(Building(10, again_s=8)) is None
    assert decided(Building(10, again_s=8), quick=Building(1)) is None
    for quick, config in (
        (None, {}),
        (Building(20), {}),
        (Building(5), {"INFERENCE_PRECISION_HINT": "f32"}),
    ):
        apart = decided(Building(10), quick=quick)
        assert apart is not None
        assert config == apart._recipe.plugin_config


def test_there_are_as_many_as_streams_or_as_the_settings_say() -> None:
    for streams, processes in ((1, 1), (3, 3), (16, 4)):
        usual = Building(10)
        usual.streams = streams
        assert (apart := decided(usual)) is not None
        assert processes == apart._count
    asked = decided(Building(10, again_s=8), 7)
    assert asked is not None, "who asks for some has them"
    assert 7 == asked._count


# In a version -----------------------------------------------------------------------------------


def given(model: Any, computes_in: str = "f32", **settings: Any) -> tuple[Any, ...] | None:
    """What a version hands over to be measured, if it does."""
    handed: list[tuple[Any, ...]] = []
    with (
        patch.object(version_module, "where_it_pays", lambda *given: handed.append(given)),
        patch.object(CompiledShape, "computes_in", computes_in),
        patch.object(version_module, "float32_is_quicker", return_value=False),
    ):
        version = loaded(model, **{"new_shape_processes": "auto", "plugin_config": {}, **settings})
    assert isinstance(version.dynamic, CompiledShape | None)
    assert 0 == version.new_shape_processes
    version.close()
    return handed[0] if handed else None


def test_a_version_measures_shapes_near_its_own_and_others_each_time() -> None:
    seen = []
    for _ in range(2):
        handed = given(models.convolution((1, 3, 320, 480)))
        assert handed is not None
        sizes = [row[0].shape[2:] for row in handed[-1]]
        assert len(sizes) == len(set(sizes)) >= 10
        assert (320, 480) not in sizes
        assert all(160 < height < 480 and 240 < width < 720 for height, width in sizes)
        seen.append(sizes)
    assert len(set(seen[0]) & set(seen[1])) < len(seen[0]) / 2


def test_of_shapes_that_are_not_accepted_none_is_measured() -> None:
    handed = given(models.convolution((1, 3, 32, 48)), shape="(1,3,32:35,48:50)")
    assert handed is not None
    sizes = {row[0].shape[2:] for row in islice(handed[-1], 20)}
    assert all(32 <= height <= 35 and 48 <= width <= 50 for height, width in sizes)


def test_a_process_has_a_stream_s_threads_and_what_the_version_has() -> None:
    preprocessing = Preprocessing()
    config = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": True}
    handed = given(models.convolution(), plugin_config=config, preprocessing=preprocessing)
    assert handed is not None
    usual, recipe, processes, _, _ = handed
    alone = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    assert alone == recipe.plugin_config
    assert ("CPU", "builtin:tested", "auto") == (recipe.device, recipe.source, processes)
    assert recipe.preprocessing is preprocessing
    assert input_shapes(usual) == ["[?,3,?,?]"]
    assert ["?", "3", "?", "?"] == [str(dim).replace("-1", "?") for dim in recipe.shapes[0]]


@pytest.mark.parametrize(
    ("computes_in", "plugin_config", "tried"),
    [
        ("bf16", {}, True),
        ("f32", {}, False),
        ("bf16", FLOAT32, False),
        ("bf16", {"EXECUTION_MODE_HINT": "PERFORMANCE"}, False),
    ],
    ids=["less", "it computes in float32", "the settings say in which", "what matters"],
)
def test_float32_is_tried_where_the_processor_chose_less(
    computes_in: str, plugin_config: dict[str, Any], tried: bool
) -> None:
    handed = given(models.convolution(), computes_in, plugin_config=plugin_config)
    assert handed is not None
    usual, _, _, in_float32, _ = handed
    assert tried == (in_float32 is not None)
    if in_float32 is not None:
        quick = in_float32()
        assert "f32" == quick._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert input_shapes(quick) == input_shapes(usual)


def test_nothing_is_measured_where_there_can_be_no_processes() -> None:
    assert given(models.convolution(), new_shape_processes=0) is None
    assert given(models.convolution(), background=False) is None
    assert given(models.add_one((1, 4), models.DATATYPES[BYTES])) is None
    assert given(models.convolution(), device="AUTO:CPU") is None


def test_a_model_that_refuses_what_is_measured_has_none() -> None:
    with patch.object(version_module, "where_it_pays", side_effect=CannotInfer("no")):
        version = loaded(models.convolution(), new_shape_processes="auto")
    assert isinstance(version.dynamic, CompiledShape)
