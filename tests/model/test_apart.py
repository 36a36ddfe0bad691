import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import psutil
import pytest

from deployments.arena import Arena, PeerArenas
from deployments.dimensions import Dim
from deployments.model import apart as apart_module
from deployments.model.apart import Apart, Gone, Process
from deployments.model.apart_process import Messages, Recipe
from deployments.model.compiled_shape import CannotInfer
from deployments.preprocessing_settings import Preprocessing
from deployments.tensors import BYTES, Array, Tensor
from tests.arena_peer import PeerProcess, allocated, peer_process
from tests.loops import PATIENCE_S
from tests.model import models
from tests.model.loading import FLOAT32, array, direct, tensor
from tests.open_files import open_files
from tests.waiting import until

Saved = Callable[[ov.Model], Recipe]

ANY = Dim(1, None)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def save(model: ov.Model) -> Recipe:
        """How to make a compilation of it that has all sizes open but those of channels."""
        ov.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
        shapes = tuple(
            tuple(Dim(3, 3) if size == 3 else ANY for size in port.shape) for port in model.inputs
        )
        return Recipe("CPU", FLOAT32, tmp_path / "m.xml", Preprocessing(), shapes)

    return save


@contextmanager
def started(recipe: Recipe) -> Iterator[Process]:
    process = Process(recipe)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def pool(recipe: Recipe, count: int = 2) -> Iterator[Apart]:
    apart = Apart(recipe, count)
    try:
        yield apart
    finally:
        apart.close()


def wake_up(apart: Apart, row: list[Tensor]) -> None:
    """With as many new shapes as it takes; then all of its processes are there."""
    for _ in range(4):
        assert apart.timed(row) is None
    until(lambda: apart.alive == apart._count)


def row(*shape: int) -> list[Tensor]:
    values = np.random.default_rng(sum(shape)).random(shape, np.float32)
    return [tensor(values, name="x")]


def ours() -> set[int]:
    """The processes that were started here and are not reaped."""
    return {child.pid for child in psutil.Process().children()}


# One process -------------------------------------------------------------------------------------


def test_it_answers_what_openvino_answers_at_every_shape(saved: Saved) -> None:
    model = models.convolution()
    with started(saved(model)) as process:
        for shape in ((1, 3, 8, 8), (2, 3, 400, 300), (1, 3, 5, 7), (1, 3, 500, 600)):
            outputs, ns = process.timed(row(*shape))
            assert [output.name for output in outputs] == ["y"]
            np.testing.assert_allclose(array(outputs[0]), direct(model, row(*shape))[0], rtol=1e-4)
            assert outputs[0].shape == array(outputs[0]).shape
            assert 0 < ns < 20e9


def test_numbers_of_every_datatype_cross(saved: Saved) -> None:
    for name, datatype in models.DATATYPES.items():
        if name == BYTES:
            continue
        model = models.add_one((1, 4), datatype)
        with started(saved(model)) as process:
            for rows in (1, 3, 5000):
                x = [tensor(np.arange(rows * 4).reshape(rows, 4) % 7, name)]
                ((output,), _) = process.timed(x)
                assert (name, (rows, 4)) == (output.datatype, output.shape)
                np.testing.assert_array_equal(output.data, direct(model, x)[0])


def test_several_inputs_and_the_outputs_that_are_asked_for(saved: Saved) -> None:
    model = models.agreeing((1, 4))
    x = [tensor(np.full((2, 4000), value), name=name) for name, value in (("a", 1), ("b", 5))]
    names = [port.any_name for port in model.outputs]
    with started(saved(model)) as process:
        everything, _ = process.timed(x)
        assert names == [output.name for output in everything]
        (last,), _ = process.timed(x, names[-1:])
        assert names[-1] == last.name
        np.testing.assert_array_equal(last.data, direct(model, x)[-1])


def test_nothing_is_a_tensor_too(saved: Saved) -> None:
    recipe = saved(models.add_one())
    shapes = ((Dim(0, None), Dim(0, None)),)
    with started(Recipe("CPU", FLOAT32, recipe.source, Preprocessing(), shapes)) as process:
        ((output,), _) = process.timed([tensor(np.empty((0, 4)))])
        assert (0, 4) == output.shape


def test_an_answer_lies_where_there_is_space_and_outlives_the_next(saved: Saved) -> None:
    places: list[Array] = []

    def space(nbytes: int) -> Array | None:
        places.append(np.zeros(nbytes, np.uint8))
        return places[-1]

    with started(saved(models.add_one())) as process:
        for size in (4, 4000):
            x, other = (np.full((1, size), value, np.float32) for value in (1, 7))
            ((placed,), _) = process.timed([tensor(x)], (), space)
            ((copied,), _) = process.timed([tensor(x)])
            process.timed([tensor(other)])
            assert np.shares_memory(array(placed), places[-1])
            for output in (placed, copied):
                np.testing.assert_array_equal(output.data, np.full((1, size), 2))


VALUES = np.arange(100_000, dtype=np.float32).reshape(100, 1000)


def in_place(values: Array) -> Tensor:
    """Not a copy, as `tensor` makes it."""
    return Tensor("x", "FP32", values.shape, values)


def in_arena(arena: Arena) -> Tensor:
    """VALUES, in memory of an arena."""
    space = allocated(arena, VALUES.nbytes).view(np.float32).reshape(VALUES.shape)
    space[...] = VALUES
    return in_place(space)


def mapped_from(peer: PeerProcess) -> Tensor:
    """VALUES, in an arena of another process."""
    address, offset = peer("own", 1 << 20, VALUES.tobytes())
    mapped = PeerArenas().view(address, offset, VALUES.nbytes).view(np.float32)
    return in_place(mapped.reshape(VALUES.shape))


def copied_bytes(process: Process) -> int:
    """The size of the memory in which inputs and large outputs are copied."""
    return os.fstat(process._memory).st_size


def test_inputs_in_shared_memory_are_read_there(saved: Saved) -> None:
    arena = Arena(1 << 20)  # it is found as long as it lives
    with started(saved(models.summed())) as process, peer_process() as peer:
        for x in (in_arena(arena), mapped_from(peer)):
            ((output,), _) = process.timed([x])
            np.testing.assert_allclose(array(output), VALUES.sum(axis=1, keepdims=True), rtol=1e-5)
            assert copied_bytes(process) == 0


def test_inputs_whose_numbers_do_not_follow_one_another_are_copied(saved: Saved) -> None:
    arena = Arena(1 << 20)
    with started(saved(models.add_one())) as process:
        whole = array(in_arena(arena))
        for part in (whole[:, 10:500], whole[::2], whole.T, whole.view(">f4")[:10]):
            ((output,), _) = process.timed([in_place(part)])
            np.testing.assert_array_equal(array(output), part.astype(np.float32) + 1)


def test_inputs_in_memory_that_the_process_cannot_map_are_copied(saved: Saved) -> None:
    with started(saved(models.summed())) as process, tempfile.TemporaryFile() as other:
        arena = Arena(1 << 20)
        x = in_arena(arena)
        os.dup2(other.fileno(), arena.address.fd)  # what this process has mapped stays
        ((output,), _) = process.timed([x])
        np.testing.assert_allclose(array(output), VALUES.sum(axis=1, keepdims=True), rtol=1e-5)
        assert copied_bytes(process) > VALUES.nbytes


def test_inputs_from_a_process_that_was_killed_are_copied(saved: Saved) -> None:
    with started(saved(models.summed())) as process, peer_process() as peer:
        x = mapped_from(peer)
        peer.kill()
        ((output,), _) = process.timed([x])
        np.testing.assert_allclose(array(output), VALUES.sum(axis=1, keepdims=True), rtol=1e-5)
        assert copied_bytes(process) > VALUES.nbytes


def test_what_openvino_refuses_is_said_and_the_next_is_answered(saved: Saved) -> None:
    with started(saved(models.convolution())) as process:
        with pytest.raises(CannotInfer, match="OpenVINO reports an error") as caught:
            process.timed(row(1, 4, 8, 8))
        assert "4" in str(caught.value.__cause__)
        assert (1, 4, 8, 8) != process.timed(row(1, 3, 8, 8))[0][0].shape


def test_shapes_that_a_node_refuses_are_told_by_one_thread_too(saved: Saved) -> None:
    recipe = saved(models.pooled())
    alone = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    with started(replace(recipe, plugin_config={**FLOAT32, **alone})) as process:
        for length in (8, 4, 8, 9, 3, 9, 8):
            x = [tensor(np.ones((1, 1, length), np.float32))]
            if length < 5:
                with pytest.raises(CannotInfer, match="OpenVINO reports an error at node 'MaxPool"):
                    process.timed(x)
            else:
                ((output,), _) = process.timed(x)
                np.testing.assert_array_equal(np.ones((1, 1, length - 4)), array(output))


def test_one_that_was_killed_is_gone(saved: Saved) -> None:
    process = Process(saved(models.add_one()))
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Gone, match=f"process {process.pid} ended"):
        process.timed(row(1, 4))
    assert process.pid not in ours()


def test_one_that_hangs_is_ended(saved: Saved) -> None:
    process = Process(saved(models.add_one()))
    process.wait_at_most(0.1)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Gone, match=r"no answer for 0\.1 s"):
        process.timed(row(1, 4))
    assert process.pid not in ours()


def test_one_that_gives_no_proper_answer_is_gone(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(saved(models.add_one()))

    def fails(self: Messages) -> None:
        raise MemoryError

    monkeypatch.setattr(Messages, "received", fails)
    with pytest.raises(Gone, match=f"process {process.pid} ended"):
        process.timed(row(1, 4))
    assert process.pid not in ours()


def test_one_that_cannot_compile_is_gone(saved: Saved) -> None:
    recipe = saved(models.add_one())
    with pytest.raises(Gone):
        Process(Recipe("CPU", {"NO_SUCH": 1}, recipe.source, Preprocessing(), recipe.shapes))


def test_nothing_is_left_of_one_that_cannot_be_started(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = saved(models.add_one())
    open_before = open_files()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        Process(recipe)
    assert open_before >= open_files()


def test_it_ends_with_a_replica_that_is_killed(saved: Saved) -> None:
    recipe = saved(models.add_one())
    code = f"""if True:
        from pathlib import Path, PosixPath
        from deployments.dimensions import Dim
        from deployments.model.apart import Process
        from deployments.model.apart_process import Recipe
        from deployments.preprocessing_settings import Preprocessing
        recipe = Recipe("CPU", {{}}, {recipe.source!r}, Preprocessing(), {recipe.shapes!r})
        print(Process(recipe).pid, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as replica:
        assert replica.stdout
        process = psutil.Process(int(replica.stdout.readline()))
        replica.kill()
        with suppress(psutil.NoSuchProcess):
            process.wait(PATIENCE_S)


# Several -----------------------------------------------------------------------------------------


def test_they_are_started_when_the_fourth_new_shape_came(saved: Saved) -> None:
    with pool(saved(models.add_one())) as apart:
        before = ours()
        for _ in range(3):
            assert apart.timed(row(1, 4)) is None
        assert apart._keeper is None
        assert apart.timed(row(1, 4)) is None
        until(lambda: apart.alive == 2)
        assert 2 == len(ours() - before)
        answer = apart.timed(row(1, 4))
        assert answer is not None
        np.testing.assert_array_equal(answer[0][0].data, array(row(1, 4)[0]) + 1)
    assert before == ours()
    assert 0 == apart.alive


def test_new_shapes_that_come_seldom_start_nothing(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("deployments.model.apart.time.monotonic", lambda: now[0])
    with pool(saved(models.add_one())) as apart:
        for now[0] in range(0, 40, 4):
            assert apart.timed(row(1, 4)) is None
        assert apart._keeper is None


def test_many_threads_are_answered_by_two_each_by_one_at_a_time(saved: Saved) -> None:
    def ask(x: list[Tensor]) -> Tensor:
        give_up = time.monotonic() + PATIENCE_S
        while (answer := apart.timed(x)) is None:  # both work for others
            assert time.monotonic() < give_up
        return answer[0][0]

    with pool(saved(models.convolution())) as apart, ThreadPoolExecutor(4) as threads:
        wake_up(apart, row(1, 3, 8, 8))
        rows = [row(1, 3, 100 + n, 100) for n in range(60)]
        for x, output in zip(rows, threads.map(ask, rows), strict=True):
            np.testing.assert_allclose(array(output), direct(models.convolution(), x)[0], rtol=1e-4)
        assert 2 == apart.alive == len(apart._free)


def test_who_finds_none_free_does_not_wait(saved: Saved) -> None:
    with pool(saved(models.add_one()), 1) as apart:
        wake_up(apart, row(1, 4))
        busy = apart._free.pop()
        assert apart.timed(row(1, 4)) is None
        apart._give_back(busy)
        assert apart.timed(row(1, 4)) is not None


def test_in_the_place_of_one_that_ended_another_is_started(
    saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    with pool(saved(models.add_one()), 1) as apart:
        wake_up(apart, row(1, 4))
        before = ours()
        (pid,) = (process.pid for process in apart._free)
        os.kill(pid, signal.SIGKILL)
        assert apart.timed(row(1, 4)) is None
        assert f"process {pid} ended" in caplog.text
        until(lambda: apart.alive == 1)
        assert apart.timed(row(1, 4)) is not None
        assert pid in before - ours()


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "_LOOK_S", 0.01)


def free(apart: Apart) -> set[int]:
    return {process.pid for process in apart._free}


def wake_up_with_memory_of(apart: Apart, *owners: PeerProcess) -> set[int]:
    """Each has mapped an arena of each owner; which processes they are."""
    wake_up(apart, row(1, 4))
    for process in apart._free:
        for owner in owners:
            process.timed([mapped_from(owner)])
    return free(apart)


@pytest.mark.usefixtures("looking")
def test_those_that_hold_memory_of_a_process_that_is_gone_are_replaced_one_by_one(
    saved: Saved,
) -> None:
    with pool(saved(models.summed())) as apart, peer_process() as peer, peer_process() as other:
        before = wake_up_with_memory_of(apart, peer, other)
        other.kill_without_reaping()
        left: list[int] = []

        def replaced() -> bool:
            left.append(apart.alive)
            return apart.alive == 2 and not before & free(apart)

        until(replaced)
        assert min(left) == 1
        assert not any(map(psutil.pid_exists, before))
        assert apart.timed([mapped_from(peer)]) is not None


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("seen", [b"later", OSError(24, "too many open files")], ids=str)
def test_a_process_is_gone_when_another_has_its_number_and_not_when_nobody_can_tell(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, seen: bytes | OSError
) -> None:
    asked: list[int] = []

    def birth(pid: int) -> bytes:
        asked.append(pid)
        if isinstance(seen, OSError):
            raise seen
        return seen

    with pool(saved(models.summed()), 1) as apart, peer_process() as peer:
        before = wake_up_with_memory_of(apart, peer)
        monkeypatch.setattr(apart_module, "birth", birth)
        until(lambda: len(asked) > 2 or before != free(apart) != set())
        assert peer.pid in asked
        assert (before == free(apart)) == isinstance(seen, OSError)


@pytest.mark.usefixtures("looking")
def test_while_none_can_be_started_those_that_are_outdated_stay(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[float] = []

    def refuse(connection: int, memory: int) -> "subprocess.Popen[bytes]":
        refused.append(time.monotonic())
        raise OSError("no more processes")

    with pool(saved(models.summed()), 2) as apart, peer_process() as peer:
        wake_up_with_memory_of(apart, peer)
        monkeypatch.setattr(apart_module, "_started", refuse)
        peer.kill()
        until(lambda: bool(refused))
        time.sleep(0.2)  # some twenty looks
        assert 1 == apart.alive == len(apart._free) == len(refused)


def test_what_fails_in_one_does_not_end_it(saved: Saved) -> None:
    with pool(saved(models.convolution()), 1) as apart:
        wake_up(apart, row(1, 3, 8, 8))
        with pytest.raises(CannotInfer):
            apart.timed(row(1, 4, 8, 8))
        assert apart.timed(row(1, 3, 8, 8)) is not None
        assert 1 == apart.alive


def test_inputs_that_are_large_stay_here(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "_LARGEST_BYTES", 4000)
    with pool(saved(models.add_one()), 1) as apart:
        wake_up(apart, row(1, 4))
        assert apart.timed(row(1, 1000)) is not None
        assert apart.timed(row(1, 1001)) is None


def test_they_end_when_no_new_shape_comes_for_long(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart_module, "_LOOK_S", 0.01)
    with pool(saved(models.add_one())) as apart:
        before = ours()
        wake_up(apart, row(1, 4))
        monkeypatch.setattr(apart_module, "_IDLE_S", 0.0)
        until(lambda: apart._keeper is None and ours() == before)
        assert 0 == apart.alive
        monkeypatch.setattr(apart_module, "_IDLE_S", 60.0)
        wake_up(apart, row(1, 4))
        assert apart.timed(row(1, 4)) is not None


def test_one_that_still_works_when_they_end_ends_then(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool(saved(models.add_one()), 1) as apart:
        wake_up(apart, row(1, 4))
        process = apart._free.pop()
        apart._closing.set()
        until(lambda: apart._keeper is None)
        assert process.pid in ours()
        apart._give_back(process)
        assert process.pid not in ours()
        assert 0 == apart.alive


def test_where_none_can_be_started_it_is_said_and_tried_again_later(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Any] = []

    def refuse(*arguments: Any) -> None:
        tried.append(arguments)
        raise OSError("no more processes")

    monkeypatch.setattr(apart_module, "_started", refuse)
    monkeypatch.setattr(apart_module, "_LOOK_S", 0.01)
    with pool(saved(models.add_one())) as apart:
        for _ in range(4):
            assert apart.timed(row(1, 4)) is None
        until(lambda: bool(tried))
        time.sleep(0.1)
        assert apart.timed(row(1, 4)) is None
        assert 1 == len(tried)
        assert 1 == caplog.text.count("no process for new shapes: no more processes")
        monkeypatch.undo()


def test_closing_one_that_was_never_needed_does_nothing(saved: Saved) -> None:
    apart = Apart(saved(models.add_one()), 2)
    apart.close()
    for _ in range(5):
        assert apart.timed(row(1, 4)) is None
    assert apart._keeper is None
