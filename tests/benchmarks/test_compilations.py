"""The rules of the one-process arms, on a model that adds one."""

import asyncio

import numpy as np
import openvino as ov
import openvino.opset15 as op
import pytest

from benchmarks.compilations import KeepAll, ModelServer, ReloadPerChange, Rule


def adder() -> ov.Model:
    data = op.parameter([1, 4], ov.Type.f32, name="data")
    return ov.Model([op.result(op.add(data, op.constant(np.float32(1))))], [data], "adder")


async def ask(rule: Rule, columns: int) -> None:
    data = np.arange(columns, dtype=np.float32).reshape(1, columns)

    raw = await rule.infer(data)

    np.testing.assert_array_equal(data.ravel() + 1, np.frombuffer(raw, np.float32))


@pytest.mark.parametrize(
    ("rule", "compiles"),
    # Model Server reloads for each request that was found to differ, also for one shape.
    [(KeepAll, 2), (ReloadPerChange, 2), (ModelServer, 6)],
)
async def test_five_requests_of_one_new_shape_at_once(rule: type[Rule], compiles: int) -> None:
    asked = rule(adder())

    await asyncio.gather(*(ask(asked, 7) for _ in range(5)))

    assert compiles == asked.compiles


@pytest.mark.parametrize("rule", [ReloadPerChange, ModelServer])
async def test_a_reload_forgets_the_shape_before(rule: type[Rule]) -> None:
    asked = rule(adder())

    for columns in (4, 7, 7, 4):
        await ask(asked, columns)

    assert 3 == asked.compiles


async def test_two_shapes_that_take_turns_cost_a_reload_for_each_request() -> None:
    rule = ReloadPerChange(adder())

    await asyncio.gather(*(ask(rule, 7 + turn % 2) for turn in range(10)))

    assert 1 + 10 == rule.compiles


async def test_shapes_that_take_turns_all_get_their_answers() -> None:
    for rule in (KeepAll(adder()), ReloadPerChange(adder()), ModelServer(adder())):
        await asyncio.gather(*(ask(rule, 4 + turn % 3) for turn in range(30)))
