"""A failed inference does not affect other inferences."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino as ov
import pytest

from deployments.dimensions import Dim
from deployments.inference import InputShapes
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.recent_shapes import RecentShapes
from deployments.model.openvino.renewal import SelfHealingModel, Turns
from deployments.model.openvino.runtime import Runtime
from tests.model import models
from tests.model.loading import FLOAT32, array, tensor
from tests.waiting import until

PATIENCE_S = 10
ANY = Dim(0, None)
ONE, OTHER, LOST, EMPTY = ((1,),), ((2,),), ((13,),), ((0,),)


class Compiled:
    """A replacement for an OpenVINO model, whose inferences the test begins and ends."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def create_infer_request(self) -> "Request":
        return Request(self)


class Request:
    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled

    def reset_state(self) -> None: ...

    def set_input_tensor(self, position: int, value: Any) -> None:
        if value is None:
            raise ValueError("it is no tensor")
        self.value = value

    def start_async(self) -> None:
        self.compiled.ran.append(self.value)

    def wait(self) -> None:
        if isinstance(self.value, Held):
            self.value.begun.set()
            assert self.value.held.wait(PATIENCE_S)
        elif self.value == "fails":
            raise RuntimeError("it fails")


class Held:
    """An inference that runs until the test releases it."""

    def __init__(self) -> None:
        self.begun, self.held = threading.Event(), threading.Event()


class Compiler:
    """All compilations, and the shapes for which `foresee` was called."""

    def __init__(self, **more: bool) -> None:
        self.compiled: list[Compiled] = []
        self.foreseen: list[InputShapes] = []
        self.renewed = SelfHealingModel(self.compile_it, self.foresee, **more)

    def compile_it(self) -> Compiled:
        self.compiled.append(Compiled())
        return self.compiled[-1]

    def foresee(self, shapes: InputShapes) -> bool:
        self.foreseen.append(shapes)
        if shapes == LOST:
            raise ValueError("no such shape")
        return shapes != EMPTY

    def ask(self, shapes: InputShapes, value: Any = "fine") -> None:
        self.renewed.done(shapes, [value]).give_back()

    def fail(self, shapes: InputShapes, match: str = "it fails") -> None:
        with pytest.raises((RuntimeError, ValueError), match=match):
            self.ask(shapes, "fails")

    @property
    def ran(self) -> list[list[Any]]:
        return [compiled.ran for compiled in self.compiled]


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


def test_after_a_failure_nothing_begins_in_what_it_happened_in(compiler: Compiler) -> None:
    compiler.ask(ONE)
    compiler.fail(OTHER)
    assert 1 == len(compiler.compiled), "until somebody asks"
    compiler.ask(ONE)
    compiler.ask(OTHER)
    assert [["fine", "fails"], ["fine", "fine"]] == compiler.ran
    assert compiler.compiled[1] is compiler.renewed.compiled


def test_an_input_that_is_not_taken_spoils_nothing(compiler: Compiler) -> None:
    with pytest.raises(ValueError, match="no tensor"):
        compiler.ask(ONE, None)
    compiler.ask(ONE)
    assert [["fine"]] == compiler.ran


def test_whether_a_shape_runs_is_asked_until_it_did(compiler: Compiler) -> None:
    for shapes in (ONE, OTHER, ONE, OTHER):
        compiler.ask(shapes)
    compiler.fail(EMPTY)
    compiler.fail(EMPTY)
    assert [ONE, OTHER, EMPTY, EMPTY] == compiler.foreseen


def test_shapes_foreseen_to_fail_are_tried_until_they_fail(compiler: Compiler) -> None:
    compiler.fail(LOST)
    for _ in range(3):
        compiler.fail(LOST, "no such shape")
    compiler.ask(ONE)
    assert [["fails"], ["fine"]] == compiler.ran


def test_where_shapes_foreseen_to_fail_run_they_are_always_tried(compiler: Compiler) -> None:
    compiler.ask(LOST)
    compiler.fail(LOST)
    compiler.fail(LOST)
    assert [["fine", "fails"], ["fails"]] == compiler.ran


def together(compiler: Compiler, first: InputShapes, second: InputShapes) -> bool:
    """Whether the second inference begins while the first runs."""
    held, other = Held(), Held()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(compiler.ask, first, held)
        assert held.begun.wait(PATIENCE_S)
        two = threads.submit(compiler.ask, second, other)
        begun = other.begun.wait(0.2)
        held.held.set()
        other.held.set()
        one.result(PATIENCE_S)
        two.result(PATIENCE_S)
    return begun


def test_what_may_fail_runs_alone(compiler: Compiler) -> None:
    assert together(compiler, ONE, OTHER)
    assert not together(compiler, ONE, EMPTY)
    assert together(compiler, ONE, EMPTY), "it succeeded once"
    assert not together(compiler, LOST, ONE)


def test_where_values_matter_uncertain_shapes_run_alone_every_time() -> None:
    compiler = Compiler(values_matter=True)
    for _ in range(2):
        assert not together(compiler, ONE, EMPTY)
    assert together(compiler, ONE, OTHER)


def test_where_a_shape_that_should_run_fails_all_run_alone(compiler: Compiler) -> None:
    compiler.ask(ONE)
    assert together(compiler, ONE, ONE)
    compiler.fail(ONE)
    assert not together(compiler, ONE, ONE)


def test_inferences_in_flight_when_another_failed_run_again(compiler: Compiler) -> None:
    for shapes in (ONE, OTHER):
        compiler.ask(shapes)
    held = Held()
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(compiler.ask, ONE, held)
        assert held.begun.wait(PATIENCE_S)
        compiler.fail(OTHER)
        held.held.set()
        under_way.result(PATIENCE_S)
    assert [["fine", "fine", held, "fails"], [held]] == compiler.ran
    compiler.ask(ONE)
    assert [held, "fine"] == compiler.ran[1]


def test_one_that_fails_after_another_had_is_tried_where_none_has(compiler: Compiler) -> None:
    for shapes in (ONE, OTHER):
        compiler.ask(shapes)

    held, wait = Held(), Request.wait

    def wait_or_fail(request: Request) -> None:
        wait(request)
        if request.value is held and request.compiled is compiler.compiled[0]:
            raise RuntimeError("because another had")

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(Request, "wait", wait_or_fail)
        under_way = threads.submit(compiler.ask, ONE, held)
        assert held.begun.wait(PATIENCE_S)
        compiler.fail(OTHER)
        held.held.set()
        under_way.result(PATIENCE_S)
    assert [held] == compiler.ran[1]


# Turns ------------------------------------------------------------------------------------------


def test_no_caller_waits_for_ever() -> None:
    """A later inference does not overtake one that waits to run alone, nor the reverse."""
    turns, order = Turns(), list[str]()
    first, begun = threading.Event(), threading.Event()

    def work(name: str, alone: bool) -> None:
        turns.begin(alone=alone)
        order.append(name)
        begun.set()
        assert first.wait(PATIENCE_S)
        turns.end()

    names = [("shared", False), ("alone", True), ("later", False), ("alone again", True)]
    threads = []
    for count, (name, alone) in enumerate(names):
        threads.append(threading.Thread(target=work, args=(name, alone)))
        threads[-1].start()
        assert begun.wait(PATIENCE_S)
        until(lambda count=count: len(turns._waiting) == count)  # type: ignore[misc]
    assert ["shared"] == order
    first.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [name for name, _ in names] == order


# The shapes that are remembered -----------------------------------------------------------------


def test_the_shapes_of_long_ago_are_forgotten() -> None:
    last = RecentShapes(3)
    for size in (1, 2, 3, 1, 4):
        last.add(((size,),))
    assert [False, True, True, True] == [((size,),) in last for size in (2, 3, 1, 4)]


# With OpenVINO ----------------------------------------------------------------------------------


def compiled(model: ov.Model, shapes: Sequence[Any], streams: int) -> CompiledShape:
    runtime = Runtime("CPU", {**FLOAT32, "NUM_STREAMS": streams})
    return runtime.compile(runtime.reshaped(model, shapes))


def ask_many(streams: int, ask: Any) -> None:
    """As many inferences at once as a replica runs, each with its own random numbers."""
    count = 2 * streams
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(ask, map(random.Random, range(count))))


@pytest.mark.parametrize("streams", [1, 2])
def test_shapes_that_fail_between_others_change_no_answer(streams: int) -> None:
    """OpenVINO alone answers with three columns here, or writes beyond the memory of an output."""
    compilation = compiled(models.outputs_of_all_kinds(), [(ANY, ANY)], streams)

    def ask(chance: random.Random) -> None:
        for _ in range(300):
            if chance.random() < 0.1:
                with pytest.raises(CannotInfer):
                    compilation.infer([tensor(np.ones((1, 3)))])
                continue
            rows, columns = chance.choice((1, 20, 500)), chance.choice((4, 6))
            x = np.random.default_rng(chance.getrandbits(32)).random((rows, columns), np.float32)
            answer = compilation.infer([tensor(x)])
            for expected, output in zip((x, x.T, x.reshape(-1, 2)), answer, strict=False):
                np.testing.assert_array_equal(expected, array(output))

    ask_many(streams, ask)


@pytest.mark.parametrize("streams", [1, 2])
def test_values_that_fail_between_others_change_no_answer(streams: int) -> None:
    compilation = compiled(models.to_shape(), [(ANY,), (Dim(2, 2),)], streams)

    def ask(chance: random.Random) -> None:
        for _ in range(100):
            x = np.random.default_rng(0).random(chance.choice((6, 600)), np.float32)
            if chance.random() < 0.1:
                with pytest.raises(CannotInfer):
                    compilation.infer([tensor(x), tensor([4, 4], "INT64", "shape")])
                continue
            rows = chance.choice((2, 3))
            target = tensor([rows, x.size // rows], "INT64", "shape")
            (output,) = compilation.infer([tensor(x), target])
            np.testing.assert_array_equal(x.reshape(rows, -1), array(output))

    ask_many(streams, ask)
