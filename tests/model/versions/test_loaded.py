from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from deployments.dimensions import Dim, parse_dims
from deployments.inference import InputSpec, OutputSpec
from deployments.model.graph.rows.outputs import RowsAlong
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import CannotLoad, CannotReshape, Runtime
from deployments.model.openvino.spots import spots_model
from deployments.model.policy.shapes import PolicyError
from deployments.model.tuning.stacking import Stacking
from deployments.model.versions.loaded import LoadedModel, LoadSettings
from deployments.tensors import Tensor
from tests.model import models
from tests.model.loading import FLOAT32, assert_same, direct, dynamic, input_shapes, loaded, tensor

ANY = Dim(0, None)


# What it says about itself ----------------------------------------------------------------------


def test_it_tells_what_it_takes_and_what_follows_from_that() -> None:
    info = loaded(models.convolution(), max_batch_rows=7).info
    assert ("m", "1", ("1",), 7) == (info.name, info.version, info.versions, info.max_batch_rows)
    assert (InputSpec("x", "FP32", parse_dims("(-1,3,-1,-1)"), 0, "NCHW"),) == info.inputs
    assert (OutputSpec("y", "FP32", (ANY, Dim(2, 2), Dim(1, None), Dim(1, None))),) == info.outputs


def test_the_outputs_of_a_fixed_shape_are_fixed() -> None:
    (output,) = loaded(models.convolution(), shape="(2,3,5,6)").info.outputs
    assert parse_dims("(2,2,5,6)") == output.dims


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings = LoadSettings("CPU", {}, "auto", "auto", True, 32, "auto")
    with pytest.raises(CannotLoad, match=r"^OpenVINO cannot read m\.xml$"):
        LoadedModel("m", "1", tmp_path / "m.xml", settings)


def test_a_contradicting_shape_is_told() -> None:
    with pytest.raises(PolicyError, match=r"cannot be reshaped to x \(1,5,8,8\)"):
        loaded(models.convolution(), shape="(1,5,8,8)")


@pytest.mark.parametrize("background", [True, False])
def test_a_device_that_is_not_there_is_told(background: bool) -> None:
    with pytest.raises(CannotLoad) as failure:
        loaded(models.add_one(), device="NPU.7", background=background, plugin_config={})
    assert "OpenVINO cannot compile it, for device 'NPU.7'" == str(failure.value)


def test_a_property_that_the_device_does_not_know_is_told() -> None:
    with pytest.raises(CannotLoad) as failure:
        loaded(models.add_one(), plugin_config={"NO_SUCH": 1})
    expected = "OpenVINO cannot compile it, for device 'CPU' with plugin_config {'NO_SUCH': 1}"
    assert expected == str(failure.value)
    assert "NO_SUCH" in str(failure.value.__cause__)  # OpenVINO's own words are for the log


def test_a_model_that_no_trial_fits_is_served_all_the_same() -> None:
    # Its input has to hold a shape of two numbers whose product is 6, and the trials do not.
    version = loaded(models.to_shape(), shape={"x": "(6)", "shape": "(2)"})
    given = [tensor([1, 2, 3, 4, 5, 6]), tensor([3, 2], "INT64", "shape")]
    assert_same(direct(models.to_shape(), given), version.reshape(((6,), (2,)))().infer(given))


# Compilations -----------------------------------------------------------------------------------


def test_one_compilation_takes_all_shapes() -> None:
    assert ["[?,3,?,?]"] == input_shapes(dynamic(loaded(models.convolution())))


def test_a_blocking_model_has_no_compilation_for_all_shapes() -> None:
    assert loaded(models.convolution(), background=False).dynamic is None


@pytest.mark.parametrize(
    ("shape", "key", "expected"),
    [
        ("auto", (-1, 3, 9, 10), "[?,3,9,10]"),
        ("(2:5,3,-1,-1)", (-1, 3, 9, 10), "[2..5,3,9,10]"),
        ("auto", (4, 3, 9, 10), "[4,3,9,10]"),
    ],
)
def test_a_shape_s_own_compilation_is_fixed_but_for_the_rows(
    shape: str, key: tuple[int, ...], expected: str
) -> None:
    assert [expected] == input_shapes(loaded(models.convolution(), shape=shape).reshape((key,))())


def test_a_shape_that_the_model_refuses_is_refused_before_it_is_compiled() -> None:
    version = loaded(models.even_sizes())
    with pytest.raises(CannotReshape):
        version.reshape(((-1, 3, 7, 8),))


def test_a_model_that_cannot_be_compiled_open_keeps_its_rows_in_the_key() -> None:
    model = models.refuses_open_dimensions()
    version = loaded(model, stacking="always")
    assert version.dynamic is None
    assert version.stacking is None
    assert [None] == [spec.batch_axis for spec in version.info.inputs]
    x = tensor([[[[n] * 8] * 16] * 8 for n in range(2)])
    key, rows = version.info.key_and_rows([x], 32)
    assert (((2, 8, 16, 8),), 1) == (key, rows)
    assert_same(direct(model, [x]), version.reshape(key)().infer([x]))


@pytest.mark.parametrize(
    ("model", "expected"),
    [(models.strings_and_lengths(), (Dim(1, None),) * 2), (models.distinct(), (Dim(1, None),))],
)
def test_empty_tensors_are_refused_where_they_would_bring_what_others_sent(
    model: ov.Model, expected: tuple[Dim, ...]
) -> None:
    assert [expected] == [spec.dims for spec in loaded(model).info.inputs]


def test_a_shape_without_elements_does_not_end_the_process() -> None:
    model = models.embeddings()
    version = loaded(model, batch_size=1, background=False)
    (output,) = version.reshape(((1, 0),))().infer([tensor([[]], "INT64", "tokens")])
    assert (1, 0, 4) == output.shape


def test_a_shape_without_elements_that_the_model_refuses_is_refused() -> None:
    with pytest.raises(CannotReshape):
        loaded(models.convolution(), background=False).reshape(((-1, 3, 0, 8),))


def test_a_compilation_for_all_shapes_that_does_not_run_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_model = Runtime.compile

    class Broken(CompiledShape):
        def infer(self, tensors: Sequence[Tensor], *_: Any) -> list[Tensor]:
            raise CannotInfer("it does not run")

    def broken_when_open(runtime: Runtime, model: ov.Model) -> CompiledShape:
        compiled = compile_model(runtime, model)
        everything_open = "[?,?]" == str(model.input(0).partial_shape)
        return Broken(compiled._requests, runtime.outputs(model)) if everything_open else compiled

    monkeypatch.setattr(Runtime, "compile", broken_when_open)
    assert loaded(models.add_one()).dynamic is None


@pytest.mark.parametrize("model", [models.add_one(), models.add_one(()), models.to_shape()])
def test_there_are_two_slots_for_every_stream(model: ov.Model) -> None:
    version = loaded(model, plugin_config={"NUM_STREAMS": 1})
    assert 1 == version.streams
    assert 2 == version.slots
    assert 4 == loaded(model, plugin_config={"NUM_STREAMS": 2}).slots


# Stacking ---------------------------------------------------------------------------------------


def wins_up_to(monkeypatch: pytest.MonkeyPatch, elements: int) -> list[tuple[int, ...]]:
    """Makes stacking win for rows of so many elements at most; returns what will be timed."""
    timed: list[tuple[int, ...]] = []

    def wins(compiled: CompiledShape, row: Sequence[Tensor], threads: int) -> bool:
        timed.append(row[0].shape)
        return prod(row[0].shape) <= elements

    monkeypatch.setattr("deployments.model.versions.loaded.stacking_wins", wins)
    return timed


@pytest.mark.parametrize(
    ("limit", "found", "timed"),
    [
        (64, 64, [(1, 8), (1, 16), (1, 32), (1, 64)]),
        (31, 16, [(1, 8), (1, 16), (1, 32)]),
        (4, 4, [(1, 8), (1, 4)]),
        (1, 1, [(1, 8), (1, 4), (1, 2), (1, 1)]),
        (0, None, [(1, 8), (1, 4), (1, 2), (1, 1)]),
    ],
)
def test_stacking_is_for_shapes_up_to_the_size_at_which_it_was_found_to_win(
    monkeypatch: pytest.MonkeyPatch, limit: int, found: int | None, timed: list[tuple[int, ...]]
) -> None:
    seen = wins_up_to(monkeypatch, limit)
    stacking = loaded(models.add_one((-1, 8)), shape="(-1,-1)", stacking="auto").stacking
    assert found == (stacking and stacking.elements)
    assert timed == seen


def test_no_further_size_is_begun_when_measuring_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deployments.timing.STACKING_MEASURED_S", -1.0)
    seen = wins_up_to(monkeypatch, 64)
    stacking = loaded(models.add_one((-1, 8)), shape="(-1,-1)", stacking="auto").stacking
    assert stacking is not None
    assert 8 == stacking.elements
    assert [(1, 8)] == seen


def test_dimensions_that_are_fixed_or_bounded_are_not_scaled_past_their_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = wins_up_to(monkeypatch, 10**9)
    version = loaded(models.convolution(), shape="(-1,3,8,4:20)", stacking="auto")
    assert Stacking((RowsAlong(0, 1),), 3 * 8 * 16) == version.stacking
    assert [(1, 3, 8, 8), (1, 3, 8, 16)] == seen
    assert version.info.stacks(((-1, 3, 8, 16),))
    assert not version.info.stacks(((-1, 3, 8, 17),))


def test_stacking_that_never_pays_is_left_out_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wins_up_to(monkeypatch, 0)
    auto = loaded(models.convolution(), stacking="auto")
    assert auto.stacking is None
    assert "rows run slower stacked than side by side" == auto.stacking_reason
    assert not auto.info.stacks(((-1, 3, 1, 1),))
    always = loaded(models.convolution(), stacking="always")
    assert always.stacking is not None
    assert always.info.stacks(((-1, 3, 10_000, 10_000),))


def test_whether_stacking_pays_is_measured_on_one_row_and_on_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    infer = CompiledShape.infer

    def counted(self: CompiledShape, tensors: Sequence[Tensor], *wanted: Any) -> list[Tensor]:
        rows.append(tensors[0].shape[0])
        return infer(self, tensors, *wanted)

    monkeypatch.setattr(CompiledShape, "infer", counted)
    loaded(models.add_one((4, 6)), stacking="auto")
    assert 3 * 4 <= rows.count(4)
    assert 3 * 4 * 4 <= rows.count(1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"stacking": "never"}, "batching.stacking is never"),
        ({"stacking": "always", "max_batch_rows": 1}, "batching.max_rows is 1"),
    ],
)
def test_stacking_can_be_turned_off(settings: dict[str, Any], reason: str) -> None:
    version = loaded(models.add_one(), **settings)
    assert version.stacking is None
    assert reason == version.stacking_reason


# A real one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 97, 61)])
def test_spots_answers_alike_however_it_is_compiled(shape: tuple[int, ...]) -> None:
    version = loaded(spots_model(), plugin_config=FLOAT32)
    x = tensor(np.random.default_rng(0).random(shape) * 255, name="data")
    (expected,) = direct(spots_model(), [x])
    assert_same([expected], version.reshape(((-1, *shape[1:]),))().infer([x]))
    assert version.dynamic is not None
    (output,) = version.dynamic.infer([x])
    assert expected.shape == output.shape
    assert float(abs(expected - output.data).max()) < 1e-5
