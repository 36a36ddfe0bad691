import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest

from deployments.datatypes import BYTES
from deployments.inference import ShapeKey
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.openvino.runtime import CannotReshape
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import direct, idle, loaded, tensor
from tests.model.serving import PATIENCE_S, Request, assert_answer, counted, serving, values

pytestmark = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "background"])


def renamed(given: Tensor, name: str) -> Tensor:
    return Tensor(name, given.datatype, given.shape, given.data)


def pair(*shape: int) -> list[Tensor]:
    return [renamed(values(*shape), name) for name in ("a", "b")]


# Answers ----------------------------------------------------------------------------------------

MODELS = [
    pytest.param(models.add_one(), [[values(1, 4)], [values(3, 7)], [values(0, 4)]], id="rows"),
    pytest.param(models.add_one(()), [[values()]], id="a scalar"),
    pytest.param(models.add_one((2, 0, 3)), [[values(2, 0, 3)], [values(1, 2, 3)]], id="empty"),
    pytest.param(models.add_one((2,) * 7), [[values(1, 2, 1, 2, 1, 2, 1)]], id="seven dimensions"),
    pytest.param(models.agreeing(), [pair(1, 4), pair(5, 2)], id="inputs that agree"),
    pytest.param(
        models.scaled(),
        [
            [values(2, 3, 5), renamed(values(2, 3), "scale")],
            [values(2, 3, 5), renamed(values(1, 3), "scale")],
        ],
        id="inputs of different ranks",
    ),
    pytest.param(
        models.scaled_by_scalar(), [[values(2, 5), renamed(values(), "scale")]], id="with a scalar"
    ),
    pytest.param(models.fixed_batch(), [[values(4, 6)]], id="fixed batch"),
    pytest.param(models.outputs_of_all_kinds(), [[values(2, 4)], [values(3, 2)]], id="outputs"),
    pytest.param(models.convolution(), [[values(2, 3, 9, 5)], [values(1, 3, 1, 1)]], id="pictures"),
    pytest.param(models.convolution((-1, 3, -1, -1)), [[values(2, 3, 9, 5)]], id="dynamic"),
    pytest.param(models.even_sizes(), [[values(1, 3, 4, 10)]], id="even sizes"),
    pytest.param(
        models.positive_places(), [[values(9)], [values(0)], [tensor([-1])]], id="by the data"
    ),
    pytest.param(models.refuses_open_dimensions(), [[values(2, 8, 9, 5)]], id="static only"),
    pytest.param(models.without_inputs(), [[]], id="no inputs"),
    pytest.param(
        models.add_one((2,), ov.Type.string),
        [[tensor([b"a", b"", b"\xff"], BYTES)], [tensor([], BYTES)]],
        id="strings",
    ),
]


@pytest.mark.parametrize(("model", "requests"), MODELS)
async def test_every_model_answers_as_openvino_does(
    model: ov.Model, requests: list[list[Tensor]], blocking: bool
) -> None:
    async with serving(loaded(model), blocking=blocking) as served:
        for given in requests:
            for _ in range(2):
                (answer,) = await served.ask(given)
                assert_answer(direct(model, given), answer)


@pytest.mark.parametrize("stacking", ["never", "always"])
@pytest.mark.parametrize("datatype", models.DATATYPES)
async def test_every_datatype_comes_back_from_a_batch(
    datatype: str, stacking: str, blocking: bool
) -> None:
    model = models.add_one((1, 2), models.DATATYPES[datatype])
    version = loaded(model, stacking="always" if stacking == "always" else "never")
    one, zero = (b"1", b"0") if datatype == BYTES else (1, 0)
    requests = [[tensor(v, datatype)] for v in ([[one, zero]], [[zero, zero], [one, one]])]
    async with serving(version, blocking=blocking) as served:
        answers = await served.ask(*requests)
        assert (stacking == "always") == served.statistics()["stacked_batches"]
        for given, answer in zip(requests, answers, strict=True):
            assert_answer(direct(model, given), answer)


async def test_stacked_rows_come_apart_with_the_outputs_that_each_asked_for(
    blocking: bool,
) -> None:
    model = models.outputs_with_rows()
    first, second, third = (tensor(np.full((n, 4), n)) for n in (2, 1, 3))
    async with serving(loaded(model, stacking="always"), blocking=blocking) as served:
        answers = await served.ask(
            [first], Request([second], ("halves", "rows")), Request([third], ("columns",))
        )
    assert 1 == served.statistics()["stacked_batches"]
    rows, _, halves = direct(model, [second])
    assert_answer(direct(model, [first]), answers[0])
    assert_answer([halves, rows], answers[1])
    assert_answer([direct(model, [third])[1]], answers[2])


async def test_a_batch_without_rows_is_not_stacked(blocking: bool) -> None:
    model = models.add_one()
    async with serving(loaded(model, stacking="always"), blocking=blocking) as served:
        empty, full = await served.ask([values(0, 4)], [values(2, 4)])
    assert_answer(direct(model, [values(0, 4)]), empty)
    assert_answer(direct(model, [values(2, 4)]), full)
    assert 0 == served.statistics()["stacked_batches"]


async def test_no_more_rows_are_stacked_than_the_shape_rule_allows(blocking: bool) -> None:
    model = models.add_one()
    version = loaded(model, shape="(1:4,4)", stacking="always")
    async with serving(version, blocking=blocking) as served:
        for count, stacked in ((2, 1), (3, 1)):
            requests = [[values(2, 4)] for _ in range(count)]
            for answer in await served.ask(*requests):
                assert_answer(direct(model, [values(2, 4)]), answer)
            assert stacked == served.statistics()["stacked_batches"]


async def test_a_stacked_batch_that_fails_is_run_one_by_one(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, infer = models.add_one(), CompiledShape.infer

    def loses_a_row(self: CompiledShape, tensors: Sequence[Tensor], *others: Any) -> list[Tensor]:
        outputs = infer(self, tensors, *others)
        rows = tensors[0].shape[0]
        return [output.rows(0, rows - 1) for output in outputs] if rows > 1 else outputs

    async with serving(loaded(model, stacking="always"), blocking=blocking) as served:
        monkeypatch.setattr(CompiledShape, "infer", loses_a_row)
        answers = await served.ask([tensor([[1, 2, 3, 4]])], [tensor([[5, 6, 7, 8]])])
        stacked = served.statistics()["stacked_batches"]
        await served.ask([tensor([[1, 2, 3, 4]])], [tensor([[5, 6, 7, 8]])])
        assert stacked == served.statistics()["stacked_batches"], (
            "rows were lost once, that is enough"
        )
    assert_answer([np.array([[2, 3, 4, 5]], np.float32)], answers[0])
    assert_answer([np.array([[6, 7, 8, 9]], np.float32)], answers[1])


# Many at once -----------------------------------------------------------------------------------


async def test_many_shapes_at_once_in_a_small_cache_are_all_answered_right(blocking: bool) -> None:
    model = models.convolution()
    shapes = [(1 + n % 2, 3, 4 + n % 5, 6) for n in range(60)]
    expected = {shape: direct(model, [values(*shape)]) for shape in set(shapes)}
    async with serving(loaded(model), blocking=blocking, bound=2, promote_after=3) as served:
        answers = await asyncio.gather(*(served.ask([values(*shape)]) for shape in shapes))
        for shape, (answer,) in zip(shapes, answers, strict=True):
            assert_answer(expected[shape], answer)
        statistics = served.statistics()
    assert 2 >= statistics["compiled_shapes"]
    assert (60, 60, 90) == tuple(statistics[name] for name in ("requests", "batches", "rows"))
    assert 0 == statistics["waiting"]
    assert (False, "batching.stacking is never") == (
        statistics["stacking"],
        statistics["stacking_reason"],
    )


async def test_warm_shapes_have_their_compilation_before_the_first_request(
    blocking: bool,
) -> None:
    version = loaded(models.convolution())
    calls = counted(version)
    async with serving(version, blocking=blocking) as served:
        await served.warm_up([[(1, 3, 5, 5)], [(4, 3, 6, 6)]])
        assert {((1, 3, 5, 5),): 1, ((-1, 3, 6, 6),): 1} == calls
        for key in calls:
            async with served._shapes.use(key) as compiled:
                assert isinstance(compiled, CompiledShape)
                assert 1 == len(idle(compiled))  # it has run
        await served.ask([values(1, 3, 5, 5)])
        await served.ask([values(2, 3, 6, 6)])
        assert 4 == served.statistics()["hits"]
        assert 0 == served.statistics()["served_dynamic"]
        assert 2 == calls.total()


async def test_a_warm_up_shape_that_the_model_refuses_is_told(blocking: bool) -> None:
    async with serving(loaded(models.even_sizes()), blocking=blocking) as served:
        with pytest.raises(CannotReshape, match="the model refuses it"):
            await served.warm_up([[(1, 3, 7, 8)]])


async def test_a_warm_up_shape_at_which_random_data_fails_is_warm_all_the_same(
    blocking: bool,
) -> None:
    version = loaded(models.to_shape(), shape={"x": "(6)", "shape": "(2)"})
    async with serving(version, blocking=blocking) as served:
        await served.warm_up([[(6,), (2,)]])
        assert 1 == served.statistics()["compiled_shapes"]


async def test_a_hundred_requests_for_a_new_shape_cost_at_most_one_compilation(
    blocking: bool,
) -> None:
    version = loaded(models.convolution())
    calls = counted(version)
    async with serving(version, blocking=blocking, promote_after=10) as served:
        answers = await asyncio.gather(*(served.ask([values(1, 3, 5, 5)]) for _ in range(100)))
        await served.settled()
        answers.append(await served.ask([values(1, 3, 5, 5)]))
        await served.settled()
        assert all(isinstance(answer, list) for (answer,) in answers)
        assert {((1, 3, 5, 5),): 1} == calls
        assert 1 == served.statistics()["compiled_shapes"]


async def test_known_shapes_are_answered_while_another_is_compiled(blocking: bool) -> None:
    version, held = loaded(models.convolution()), threading.Event()
    reshape = version.reshape

    def slow(key: ShapeKey) -> Callable[[], CompiledShape]:
        if key == ((1, 3, 9, 9),):
            assert held.wait(PATIENCE_S)
        return reshape(key)

    version.reshape = slow  # type: ignore[method-assign]
    async with serving(version, blocking=blocking) as served:
        await served.warm_up([[(1, 3, 5, 5)]])
        new = asyncio.create_task(served.warm_up([[(1, 3, 9, 9)]]))
        for _ in range(10):
            (answer,) = await served.ask([values(1, 3, 5, 5)])
            assert isinstance(answer, list)
        assert not new.done()
        held.set()
        await new
