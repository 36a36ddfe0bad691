"""What a served version knows about the shapes that it was asked for."""

import asyncio
import threading
from typing import Any

import pytest

from deployments.errors import DeadlineExceeded, InferenceFailed, ShapeNotSupported
from deployments.inference import ShapeKey, shape_number
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.observability.shape_records import CacheBounds, ShapeRecord
from deployments.tensors import Tensor
from deployments.transport.routing_stats import MOST_COST
from tests.model import models
from tests.model.loading import dynamic, loaded, tensor
from tests.model.serving import PATIENCE_S, Request, Served, holds, serving, tampered, values

FOUR: ShapeKey = ((1, 4),)
ANY_FOUR: ShapeKey = ((-1, 4),)
ANY_FIVE: ShapeKey = ((-1, 5),)
SLOW_S = 0.05

both_modes = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "background"])


async def known(served: Served, key: ShapeKey = FOUR) -> ShapeRecord:
    return (await served.shapes()).shapes[key]


def told(record: ShapeRecord, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(record.counts, name) for name in names)


# Requests ---------------------------------------------------------------------------------------


@both_modes
async def test_each_shape_has_its_requests_rows_and_batches(blocking: bool) -> None:
    version = loaded(models.add_one(), stacking="always")
    async with serving(version, blocking=blocking) as served:
        await served.ask([values(1, 4)])
        await served.ask([values(2, 4)], [values(1, 4)])
        await served.ask([values(3, 5)])
        report = await served.shapes()
    four, five = report.shapes[ANY_FOUR], report.shapes[ANY_FIVE]
    assert (3, 4, 2) == told(four, "requests", "rows", "batches")
    assert (1, 3, 1) == told(five, "requests", "rows", "batches")
    assert {ANY_FOUR, ANY_FIVE} == report.shapes.keys()
    assert 4 == report.totals().requests == served.statistics()["requests"]
    assert CacheBounds(8, 1000) == report.bounds


@both_modes
async def test_where_rows_are_not_stacked_one_row_is_a_shape_of_its_own(blocking: bool) -> None:
    async with serving(loaded(models.add_one(), stacking="never"), blocking=blocking) as served:
        answers = await served.ask([values(2, 4)], [values(1, 4)], [values(5, 4)], [values(1, 4)])
        await served.ask([values(1, 4)])
        report = await served.shapes()
    rows = [answer[0].shape[0] for answer in answers if isinstance(answer, list)]
    assert [2, 1, 5, 1] == rows
    assert {FOUR, ANY_FOUR} == report.shapes.keys()
    assert (3, 3, 2) == told(report.shapes[FOUR], "requests", "rows", "batches")
    assert (2, 7, 1) == told(report.shapes[ANY_FOUR], "requests", "rows", "batches")
    assert 5 == report.totals().requests == served.statistics()["requests"]
    assert 2 == served.statistics()["batches"]


async def test_one_row_and_any_number_are_one_shape_to_whoever_routes_and_two_to_warm_up() -> None:
    version = loaded(models.add_one(), stacking="never")
    async with serving(version, blocking=True) as served:
        shapes = frozenset({shape_number(served.info.revision, ANY_FOUR)})
        for rows in (1, 3):
            await served.ask([values(rows, 4)])
            assert shapes == served.routing().shapes
        hot = served.hot_shapes(2)
        assert [((2, 4),), ((1, 4),)] == sorted(hot, reverse=True)
    async with serving(version, blocking=True) as again:
        await again.warm_up(hot)
        await again.ask([values(1, 4)], [values(5, 4)])
        assert 2 == again.statistics()["compiles"] == again.statistics()["compiled_shapes"]


async def test_who_routes_is_told_of_shapes_that_have_kernels_and_what_others_cost() -> None:
    version = loaded(models.convolution(), shape="auto")
    compiled = dynamic(version)
    async with serving(version) as served:
        before = served.routing().shapes
        sizes = [(2, 3, 20 + size, 30) for size in range(5)]
        for size in sizes:
            await served.ask([values(*size)])
        keys = [version.key_of([size]) for size in sizes]
        numbers = {shape_number(served.info.revision, ((-1, *key[0][1:]),)) for key in keys}
        told_of = served.routing()
        assert numbers == told_of.shapes - before
        assert 1 <= told_of.compile_cost < MOST_COST
        compiled.remember_kernels_of(1)
        assert not served.routing().shapes


async def test_a_blocking_model_answers_static_and_the_first_waits_for_the_compilation() -> None:
    async with serving(loaded(models.add_one()), blocking=True) as served:
        for _ in range(3):
            await served.ask([values(2, 4)])
        record = await known(served, ANY_FOUR)
    assert (3, 6, 1, 0) == told(record, "static", "static_rows", "waited", "dynamic")
    assert (3, 0) == told(record, "static_calls", "dynamic_calls")
    assert (1, 0) == told(record, "compiles", "compile_failures")
    assert 0 < record.counts.compile_ns < 1e9 * served.statistics()["compile_seconds"] + 1e6
    assert {"static": 1} == record.states


async def test_a_shape_is_answered_dynamic_until_it_has_its_own_compilation() -> None:
    version = loaded(models.add_one())
    tampered(version).slow_s = 0.002
    async with serving(version, promote_after=3) as served:
        for requests in (3, 1, 4):  # those that promote it, what is compared, and those after
            for _ in range(requests):
                await served.ask([values(1, 4)])
            await served.settled()
        record = await known(served)
    assert (8, 4, 4, 0) == told(record, "requests", "dynamic", "static", "waited")
    assert (4, 4, 1) == told(record, "dynamic_calls", "static_calls", "compiles")
    assert [4, 4] == [len(part.samples()) for part in (record.dynamic[0], record.static[0])]


@both_modes
async def test_a_warm_up_is_no_request_and_no_inference(blocking: bool) -> None:
    async with serving(loaded(models.add_one()), blocking=blocking) as served:
        await served.warm_up([[(1, 4)]])
        record = await known(served)
        assert (0, 0, 0, 0, 1) == told(
            record, "requests", "batches", "static", "static_calls", "compiles"
        )
        assert ({"static": 1}, ()) == (record.states, record.static)
        await served.ask([values(1, 4)])
        assert (1, 1, 0, 1) == told(
            await known(served), "requests", "static", "waited", "static_calls"
        )


async def test_a_shape_that_the_compilation_for_all_cannot_do_is_answered_static() -> None:
    version = loaded(models.add_one())
    tampered(version).fails = holds(4)
    async with serving(version) as served:
        await served.ask([tensor([[1, 2, 3, 4]])], [tensor([[0, 0, 0, 0]])])
        record = await known(served)
    assert (2, 1, 1, 1) == told(record, "requests", "dynamic", "static", "waited")
    assert (1, 1) == told(record, "dynamic_calls", "static_calls")


@both_modes
async def test_what_is_not_answered_is_counted_as_asked_only(blocking: bool) -> None:
    version = loaded(models.to_shape(), shape={"x": "(6)", "shape": "(2)"})
    x = tensor([1, 2, 3, 4, 5, 6])
    bad, good = ([x, tensor(shape, "INT64", "shape")] for shape in ([4, 4], [3, 2]))
    async with serving(version, blocking=blocking) as served:
        answers = await served.ask(bad, good, Request(good, late_s=1))
        (record,) = (await served.shapes()).shapes.values()
    assert [InferenceFailed, list, DeadlineExceeded] == [type(answer) for answer in answers]
    answered = record.counts.static + record.counts.dynamic
    assert (3, 1) == (record.counts.requests, answered)
    assert 1 == record.counts.static_calls + record.counts.dynamic_calls


@both_modes
async def test_a_shape_that_the_model_refuses_has_failed_and_says_why(blocking: bool) -> None:
    version = loaded(models.even_sizes())
    async with serving(version, blocking=blocking) as served:
        (answer,) = await served.ask([values(1, 3, 7, 8)])
        record = await known(served, ((1, 3, 7, 8),))
    assert isinstance(answer, ShapeNotSupported)
    assert (1, 0, 0) == told(record, "requests", "static", "dynamic")
    assert {"failed": 1} == record.states
    (reason,) = record.reasons
    assert reason.startswith("the model refuses it at node")


# Times ------------------------------------------------------------------------------------------


async def test_an_inference_of_stacked_requests_is_one_with_all_their_rows() -> None:
    async with serving(loaded(models.add_one(), stacking="always")) as served:
        await served.ask([values(1, 4)], [values(2, 4)], Request([values(7, 4)], late_s=1))
        record = await known(served, ANY_FOUR)
    assert 1 == served.statistics()["stacked_batches"]
    assert (3, 10, 1, 2) == told(record, "requests", "rows", "batches", "dynamic")
    ((calls, _, _),) = record.dynamic
    assert (1, [3]) == (calls, [rows for _, rows in record.dynamic[0].samples()])


async def test_inferences_side_by_side_are_as_many_with_rows_of_their_own() -> None:
    async with serving(loaded(models.add_one(), stacking="never")) as served:
        await served.ask([values(3, 4)], [values(2, 4)])
        record = await known(served, ANY_FOUR)
    assert [2, 3] == sorted(rows for _, rows in record.dynamic[0].samples())


@both_modes
async def test_neither_waiting_for_a_thread_nor_for_a_stream_is_part_of_the_times(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that runs one inference a stream, and makes those wait that are too many."""
    version, infer = loaded(models.add_one()), CompiledShape.infer
    assert version.streams < version.slots
    streams, pause = threading.Semaphore(version.streams), threading.Event()

    def slow(self: CompiledShape, *arguments: Any) -> list[Tensor]:
        with streams:
            assert not pause.wait(SLOW_S)
            return infer(self, *arguments)

    async with serving(version, blocking=blocking) as served:
        await served.warm_up([[(1, 4)]])
        monkeypatch.setattr(CompiledShape, "infer", slow)
        count = 4 * version.slots
        await served.ask(*([values(1, 4)] for _ in range(count)))
        (part,) = (await known(served)).static
    times_s = sorted(ns / 1e9 for ns, _ in part.samples())
    assert count == len(times_s)
    assert 0.9 * SLOW_S < times_s[count // 2] < 1.8 * SLOW_S


# The lock ---------------------------------------------------------------------------------------


@both_modes
async def test_what_is_known_is_told_while_the_reshape_lock_is_held(blocking: bool) -> None:
    lock = asyncio.Lock()
    async with serving(loaded(models.add_one()), blocking=blocking, lock=lock) as served:
        await served.warm_up([[(1, 4)]])
        async with lock:
            await served.ask([values(1, 4)])
            report = await asyncio.wait_for(served.shapes(), PATIENCE_S)
    assert 1 == report.totals().requests


async def test_what_the_model_takes_does_not_change_with_what_is_asked() -> None:
    async with serving(loaded(models.add_one())) as served:
        before = served.version.info
        await served.ask([values(1, 4)])
        await served.shapes()
        assert before == served.version.info
