"""What is told of reshapes: one line and one count for each, with why and what came of it."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from deployments.observability.metrics import (
    COMPILE_SECONDS,
    DYNAMIC_REQUESTS,
    EVICTIONS,
    RESHAPES,
)
from tests.model import models
from tests.model.cache.compiler import A, B, Compiler, Refused, Shapes
from tests.model.loading import loaded, tensor
from tests.model.serving import serving, tampered
from tests.watching import Recorded

ROW = [[1.0, 2.0, 3.0, 4.0]]


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What is logged: Serve's logger hands nothing on once it is configured."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(before)


FIELDS = ("model", "version", "shape", "reason", "outcome")


def fields(record: logging.LogRecord) -> tuple[Any, ...]:
    assert record.__dict__["seconds"] > 0
    return tuple(record.__dict__[name] for name in FIELDS)


async def test_a_new_shape_that_is_waited_for(lines: list[logging.LogRecord]) -> None:
    seen = Recorded()
    async with serving(loaded(models.add_one()), blocking=True, telemetry=seen) as served:
        for _ in range(3):
            await served.ask([tensor(ROW)])

    (line,) = lines
    assert ("m", "1", "x [1,4]", "new_shape", "compiled") == fields(line)
    assert line.getMessage().startswith(
        "model 'm' version 1: reshape to x [1,4] (new_shape) compiled in "
    )
    assert {("m", "new_shape", "compiled"): 1} == seen.of(RESHAPES)
    assert {("m",): 1} == seen.of(COMPILE_SECONDS)
    assert {} == seen.of(DYNAMIC_REQUESTS)


async def test_a_shape_that_the_model_refuses(lines: list[logging.LogRecord]) -> None:
    seen = Recorded()
    async with serving(loaded(models.even_sizes()), blocking=True, telemetry=seen) as served:
        for _ in range(2):
            await served.ask([tensor(np.zeros((1, 3, 5, 5)))])

    (line,) = lines
    assert ("new_shape", "failed") == fields(line)[3:]
    assert logging.WARNING == line.levelno
    assert "\n" not in line.getMessage()
    assert {("m", "new_shape", "failed"): 1} == seen.of(RESHAPES)


@pytest.mark.parametrize(("faster", "outcome"), [(True, "compiled"), (False, "discarded")])
async def test_the_promotion_of_a_shape_that_keeps_coming(
    monkeypatch: pytest.MonkeyPatch, faster: bool, outcome: str
) -> None:
    monkeypatch.setattr("deployments.model.versions.promotion._Trial.verdict", lambda *_: faster)
    seen = Recorded()
    async with serving(loaded(models.add_one()), promote_after=3, telemetry=seen) as served:
        for requests in (3, 1):  # the last one is what is compared
            for _ in range(requests):
                await served.ask([tensor(ROW)])
            await served.settled()

    assert {("m", "promotion", outcome): 1} == seen.of(RESHAPES)
    assert {("m",): 4} == seen.of(DYNAMIC_REQUESTS)


async def test_a_shape_to_warm_up_with() -> None:
    seen = Recorded()
    async with serving(loaded(models.add_one()), telemetry=seen) as served:
        await served.warm_up([[(1, 4)]])
        await served.ask([tensor(ROW)])

    assert {("m", "warm_up", "compiled"): 1} == seen.of(RESHAPES)
    assert {} == seen.of(DYNAMIC_REQUESTS)


async def test_a_shape_that_the_dynamic_compilation_cannot_do() -> None:
    seen = Recorded()
    version = loaded(models.add_one())
    tampered(version).fails = lambda tensors: True
    async with serving(version, telemetry=seen) as served:
        await served.ask([tensor(ROW)])

    assert {("m", "fallback", "compiled"): 1} == seen.of(RESHAPES)


async def test_evictions_are_counted_by_others_and_by_a_lower_bound() -> None:
    seen = Recorded()
    async with serving(
        loaded(models.add_one((1, -1))), blocking=True, bound=2, telemetry=seen
    ) as served:
        for size in (1, 2, 3):
            await served.ask([tensor(np.zeros((1, size)))])
        assert {("m",): 1} == seen.of(EVICTIONS)
        served._shapes.set_bounds(1, 1000, 1000)
        assert 1 == served.compiled_shapes

    assert {("m",): 2} == seen.of(EVICTIONS)


async def test_a_failure_of_the_compilation_is_told_once_for_all_who_wait() -> None:
    compiler, told = Compiler(), list[tuple[Any, ...]]()
    compiler.refuses_to_compile = {B}
    shapes = Shapes(compiler, reshaped=lambda r: told.append((r.key, r.reason, r.outcome)))

    await shapes.get(A)
    for _ in range(2):
        with pytest.raises(Refused):
            await shapes.get(B)

    assert [(A, "new_shape", "compiled"), (B, "new_shape", "failed")] == told
