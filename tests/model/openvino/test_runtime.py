import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino as ov
import pytest

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.dimensions import Dim
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import Runtime
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import FLOAT32, assert_same, direct, idle, tensor
from tests.model.models import DATATYPES

RUNTIME = Runtime("CPU", FLOAT32)
SHAPES = [(), (6,), (0,), (2, 0, 3), (1, 3), (2, 1, 1, 3, 1)]
ANY = Dim(0, None)


def compiled(model: ov.Model, *shapes: Any) -> CompiledShape:
    return RUNTIME.compile(RUNTIME.reshaped(model, shapes) if shapes else model)


def example(datatype: str, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    if datatype == BYTES:
        strings = [(b"", b"a", b"\xff\xfe", "ø".encode())[n % 4] for n in range(count)]
        return Tensor("x", BYTES, shape, strings)
    dtype = NUMPY_DTYPES[datatype]
    values: list[float]
    if datatype == BF16:
        values = [0x0000, 0x3F80, 0xC2F7, 0x7F80, 0x7FC0]  # 0, 1, -123.5, infinity, no number
    elif dtype.kind == "f":
        values = [0, 1.5, -123.25, np.inf, np.nan]
    elif dtype.kind == "b":
        values = [False, True]
    else:
        values = [0, 1, np.iinfo(dtype).max - 1, np.iinfo(dtype).min]
    return tensor(np.array(values, dtype)[np.arange(count) % len(values)].reshape(shape), datatype)


def one_more(model: ov.Model, x: Tensor) -> list[Any]:
    """OpenVINO's answer; for FP64 the answer that it would give if it kept infinities."""
    if x.datatype != "FP64":
        return direct(model, [x])
    with np.errstate(over="ignore"):
        return [(np.asarray(x.data).astype(np.float32) + np.float32(1)).astype(np.float64)]


# Inference --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_and_rank_is_answered_as_by_openvino(
    datatype: str, shape: tuple[int, ...]
) -> None:
    model, x = models.add_one(shape, DATATYPES[datatype]), example(datatype, shape)
    expected = one_more(model, x)
    for compilation in (compiled(model, shape), compiled(model, [ANY] * len(shape))):
        (output,) = compilation.infer([x])
        assert ("y", datatype, shape) == (output.name, output.datatype, output.shape)
        assert_same(expected, [output])


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_arrays_that_are_not_writable_are_read_all_the_same(
    datatype: str, shape: tuple[int, ...]
) -> None:
    model, x = models.add_one(shape, DATATYPES[datatype]), example(datatype, shape)
    expected = one_more(model, x)
    assert isinstance(x.data, np.ndarray)
    x.data.flags.writeable = False
    assert_same(expected, compiled(model, shape).infer([x]))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_inputs_are_left_as_they_are(datatype: str) -> None:
    x, same = (example(datatype, (2, 3)) for _ in range(2))
    compiled(models.add_one((2, 3), DATATYPES[datatype])).infer([x])
    assert_same([same.data], [x])


def test_strings_that_end_with_zero_bytes_keep_them() -> None:
    x = tensor([b"a\0", b"\0", b"", b"\0b\0\0"], BYTES)
    (y,) = compiled(models.add_one((4,), ov.Type.string)).infer([x])
    assert x.data == y.data


@pytest.mark.parametrize("type_name", ["f32", "string"])
def test_outputs_are_copies_that_nothing_overwrites(type_name: str) -> None:
    datatype = {"f32": "FP32", "string": BYTES}[type_name]
    identity = models.model(
        (x := models.parameter([1, 4], getattr(ov.Type, type_name)), "y"), inputs=[x]
    )
    for model in (identity, models.add_one((1, 4), getattr(ov.Type, type_name))):
        compilation, first = compiled(model), example(datatype, (1, 4))
        expected = direct(model, [first])
        outputs = compilation.infer([first])
        if isinstance(first.data, np.ndarray):
            first.data[:] = -1
        for n in range(3):
            compilation.infer(
                [tensor([[n] * 4] if datatype == "FP32" else [[b"%d" % n] * 4], datatype)]
            )
        assert_same(expected, outputs)


@pytest.mark.parametrize(
    "wanted", [["rows"], ["halves", "rows"], ["constant", "mean", "columns"], []], ids=str
)
def test_the_wanted_outputs_come_in_the_wanted_order(wanted: list[str]) -> None:
    model, x = models.outputs_of_all_kinds(), tensor([[1, -2, 3, 4], [5, 6, 7, -8]])
    names = ["rows", "columns", "halves", "mean", "constant"]
    expected = dict(zip(names, direct(model, [x]), strict=True))
    outputs = compiled(model, [2, 4]).infer([x], wanted)
    assert (wanted or names) == [output.name for output in outputs]
    assert_same([expected[output.name] for output in outputs], outputs)


def test_inputs_go_by_their_order() -> None:
    x, scale = tensor(np.arange(12).reshape(1, 3, 4)), tensor([[1, 2, 3]])
    expected = direct(models.scaled(), [x, scale])
    assert_same(expected, compiled(models.scaled()).infer([x, scale]))


def test_outputs_may_be_as_long_as_their_values_demand() -> None:
    compilation = compiled(models.positive_places(), [ANY])
    for values in ([1, -1, 1], [-1], [1] * 9, []):
        x = tensor(values)
        assert_same(direct(models.positive_places(), [x]), compilation.infer([x]))


def test_a_model_without_inputs_answers() -> None:
    assert_same([np.arange(3, dtype=np.float32)], compiled(models.without_inputs()).infer([]))


def test_the_memory_of_the_inputs_is_given_back_after_the_inference() -> None:
    memory = bytearray(16)
    x = Tensor("x", "FP32", (1, 4), np.frombuffer(memory, np.float32).reshape(1, 4))
    compilation = compiled(models.add_one())
    compilation.infer([x])
    del x
    memory.clear()  # BufferError if anything still refers to it


# Infer requests ---------------------------------------------------------------------------------


def test_threads_get_their_own_answers_and_no_more_requests_are_kept_than_ran_at_once() -> None:
    compilation = compiled(models.add_one(), [ANY, ANY])
    count = 4
    together = threading.Barrier(count)

    def ask(thread: int) -> bool:
        right = True
        for n in range(50):
            if n % 10 == 0:
                together.wait(10)
            x = tensor(np.full((1 + n % 3, 1 + thread), 100 * thread + n))
            (y,) = compilation.infer([x])
            right &= bool(np.array_equal(np.asarray(x.data) + 1, y.data))
        return right

    with ThreadPoolExecutor(count) as threads:
        assert [True] * count == list(threads.map(ask, range(count)))
    assert 1 <= len(idle(compilation)) <= count


def test_one_infer_request_is_enough_for_one_thread() -> None:
    compilation = compiled(models.add_one())
    for n in range(10):
        compilation.infer([tensor([[n] * 4])])
    assert 1 == len(idle(compilation))


def test_what_a_model_remembers_is_forgotten_before_the_next_inference() -> None:
    model, x = models.running_total(), tensor([[1, 2, 3, 4]])
    remembering = compiled(model)
    for _ in range(3):
        assert_same(direct(model, [x]), remembering.infer([x]))
    assert 1 == len(idle(remembering))


def test_an_infer_request_that_failed_is_not_used_again() -> None:
    compilation = compiled(models.to_shape(), [6], [2])
    x = tensor([1, 2, 3, 4, 5, 6])
    fits, does_not = (tensor(shape, "INT64", "shape") for shape in ([2, 3], [4, 4]))
    compilation.infer([x, fits])
    with pytest.raises(CannotInfer, match="OpenVINO reports an error at node 'Reshape_"):
        compilation.infer([x, does_not])
    assert [] == idle(compilation)
    (y,) = compilation.infer([x, fits])
    np.testing.assert_array_equal([[1, 2, 3], [4, 5, 6]], y.data)


THREADS = [{}, {"INFERENCE_NUM_THREADS": 1}, {"NUM_STREAMS": 1}, {"NUM_STREAMS": 2}]


@pytest.mark.parametrize("threads", THREADS, ids=str)
@pytest.mark.parametrize("lengths", [(8,), (8, 9)], ids=str)
def test_after_requests_that_fail_at_a_node_those_with_the_shape_before_are_answered(
    threads: dict[str, Any], lengths: tuple[int, ...]
) -> None:
    """As many inferences at once as are needed to reach all streams."""
    runtime = Runtime("CPU", {**FLOAT32, **threads})
    compilation = runtime.compile(runtime.reshaped(models.pooled(), [(ANY, Dim(1, 1), ANY)]))
    at_once = 4

    def ask(length: int) -> None:
        x = tensor(np.ones((1, 1, length), np.float32))
        if length < 5:
            node = "MaxPool" if length else "Convolution"
            with pytest.raises(CannotInfer, match=f"OpenVINO reports an error at node '{node}_"):
                compilation.infer([x])
        else:
            (y,) = compilation.infer([x])
            np.testing.assert_array_equal(np.ones((1, 1, length - 4)), y.data)

    with ThreadPoolExecutor(at_once) as pool:
        for length in (*lengths, 4, *lengths, 3, 4, *lengths, 0, *lengths):
            list(pool.map(ask, [length] * at_once))


def test_rows_that_a_node_refuses_leave_the_compilation_as_it_was() -> None:
    runtime = Runtime("CPU", {**FLOAT32, "NUM_STREAMS": 1})
    shape = (ANY, Dim(1, 1), Dim(4, 4))
    compilation = runtime.compile(runtime.reshaped(models.one_or_two_rows(), [shape]))
    for rows, answered in [(1, True), (3, False), (1, True), (2, True), (3, False), (2, True)]:
        x = tensor(np.ones((rows, 1, 4), np.float32))
        if answered:
            (y,) = compilation.infer([x])
            np.testing.assert_array_equal(np.full((2, 1, 4), 2.25), y.data)
        else:
            with pytest.raises(CannotInfer):
                compilation.infer([x])


@pytest.mark.parametrize("wrong", [[[1, 2, 3]], [1, 2, 3, 4]], ids=str)
def test_a_shape_that_was_not_compiled_cannot_be_inferred(wrong: Any) -> None:
    with pytest.raises(CannotInfer):
        compiled(models.add_one()).infer([tensor(wrong)])


def test_an_input_that_is_none_is_the_same_error() -> None:
    with pytest.raises(CannotInfer, match="OpenVINO reports an error"):
        compiled(models.add_one((2,), ov.Type.string)).infer([Tensor("x", BYTES, (2,), [b"one"])])


def test_whatever_openvino_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation = compiled(models.add_one())

    class Exhausted:
        def create_infer_request(self) -> None:
            raise MemoryError("std::bad_alloc in /some/where.cpp")

    monkeypatch.setattr(compilation._requests, "compiled", Exhausted())
    with pytest.raises(CannotInfer) as failure:
        compilation.infer([tensor([[1, 2, 3, 4]])])
    assert "OpenVINO reports an error" == str(failure.value)
    assert isinstance(failure.value.__cause__, MemoryError)
