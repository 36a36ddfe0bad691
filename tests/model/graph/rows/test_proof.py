from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops

from deployments.dimensions import Dim
from deployments.inference import InputSpec
from deployments.model.graph.rows.outputs import Detections, NotProven, OutputRule, RowsAlong
from deployments.model.graph.rows.proof import rows_kept_apart
from deployments.model.openvino.runtime import DATATYPE_OF
from deployments.model.openvino.spots import spots_model
from tests.effort import examples
from tests.model import models
from tests.model.graph.rows import row_models
from tests.model.graph.rows.row_models import i64, number, number_of_rows

ANY = Dim(0, None)
CORE = ov.Core()


def proven(model: ov.Model, open_axes: Sequence[int] = ()) -> tuple[OutputRule, ...]:
    """With the rows along dimension 0 of every input, and these dimensions open."""
    specs, shapes = [], []
    for position, port in enumerate(model.inputs):
        sizes = [4 if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape()]
        shape = (1, *sizes[1:])
        dims = [
            ANY if axis == 0 or axis in open_axes else Dim(n, n) for axis, n in enumerate(shape)
        ]
        datatype = DATATYPE_OF[port.get_element_type()]
        specs.append(InputSpec(f"in{position}", datatype, tuple(dims), 0))
        shapes.append(shape)
    return rows_kept_apart(model, specs, tuple(shapes))


def answers(model: ov.Model, x: Any) -> Any:
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(x)[0])


@pytest.mark.parametrize("build", row_models.APART.values(), ids=row_models.APART)
def test_rows_are_followed_through_what_keeps_them_apart(build: row_models.Build) -> None:
    """Checks the proof: rows stacked and split equal each row alone."""
    model = row_models.of(build)
    (rule,) = proven(model)
    assert isinstance(rule, RowsAlong)
    rows = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    rows *= np.array([1, 100, 0.01], np.float32)[:, None, None]
    alone = [answers(model, row[None]) for row in rows]
    expected = np.concatenate(alone, rule.axis)
    np.testing.assert_allclose(expected, answers(model, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "reason"), row_models.ACROSS.values(), ids=row_models.ACROSS.keys()
)
def test_what_mixes_rows_is_named(build: row_models.Build, reason: str) -> None:
    with pytest.raises(NotProven, match=reason.replace("'n'", "'.+'")):
        proven(row_models.of(build))


def test_a_refusal_names_the_node_as_the_model_does() -> None:
    x = models.parameter([-1, 4])
    largest = ops.reduce_max(x, i64(-2), True, name="the largest")
    model = models.model((ops.divide(x, largest), "y"), inputs=[x])
    with pytest.raises(NotProven, match=r"^ReduceMax at node 'the largest' works across rows$"):
        proven(model)


# Several inputs ---------------------------------------------------------------------------------


def test_rows_of_two_inputs_go_together_only_row_by_row() -> None:
    a, b = models.parameter([-1, 4, 6], name="a"), models.parameter([-1, 6, 3], name="b")
    model = models.model((ops.matmul(a, b, False, False), "y"), inputs=[a, b])
    assert (RowsAlong(0, 1),) == proven(model)


def test_a_column_of_rows_against_a_line_of_rows_is_refused() -> None:
    a, b = models.parameter([-1, 1], name="a"), models.parameter([-1], name="b")
    model = models.model((ops.multiply(a, b), "y"), inputs=[a, b])
    with pytest.raises(NotProven, match="broadcasts rows against rows"):
        proven(model)


def test_time_cut_to_the_longest_row_is_refused() -> None:
    x, lengths = models.parameter([-1, 8, 2]), models.parameter([-1], ov.Type.i64, "lengths")
    longest = ops.reduce_max(lengths, i64(0), True)
    y = ops.slice(x, i64(0), longest, i64(1), i64(1))
    with pytest.raises(NotProven, match=r"ReduceMax at node '.*' works across rows"):
        proven(models.model((y, "y"), inputs=[x, lengths]))


def test_sizes_that_rows_give_are_refused() -> None:
    x, sizes = models.parameter([-1, 8]), models.parameter([-1], ov.Type.i64, "sizes")
    y = ops.reshape(x, ops.concat([i64(-1), sizes], 0), special_zero=False)
    with pytest.raises(NotProven):
        proven(models.model((y, "y"), inputs=[x, sizes]))


def test_tokens_look_up_a_table_and_rows_are_no_table() -> None:
    assert (RowsAlong(0, 1),) == proven(models.embeddings(), open_axes=[1])
    table, tokens = models.parameter([-1, 6]), models.parameter([-1], ov.Type.i64, "tokens")
    y = ops.gather(table, tokens, ops.constant(0))
    with pytest.raises(NotProven, match=r"Gather at node '.*' works across rows"):
        proven(models.model((y, "y"), inputs=[table, tokens]))


def test_an_input_without_open_rows_is_named() -> None:
    specs = [InputSpec("a", "FP32", (ANY, Dim(4, 4)), 0), InputSpec("b", "FP32", (Dim(1, 1),))]
    a, b = models.parameter([-1, 4], name="a"), models.parameter([1], name="b")
    model = models.model((ops.add(a, b), "y"), inputs=[a, b])
    with pytest.raises(NotProven, match="input 'b' has no open number of rows"):
        rows_kept_apart(model, specs, ((1, 4), (1,)))


# Models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(models.outputs_with_rows(), (0, 1, 0), id="several outputs"),
        pytest.param(models.scaled(), (0,), id="two inputs of different ranks"),
        pytest.param(models.convolution(), (0,), id="convolution"),
        pytest.param(models.pooled(), (0,), id="pooled"),
        pytest.param(models.even_sizes(), (0,), id="even sizes"),
        pytest.param(models.every_datatype(), (0,) * len(models.DATATYPES), id="datatypes"),
    ],
)
def test_tiny_models_are_proven(model: ov.Model, expected: tuple[int, ...]) -> None:
    rules = proven(model)
    assert expected == tuple(rule.axis for rule in rules if isinstance(rule, RowsAlong))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(models.running_total(), "ReadValue|Assign", id="state"),
        pytest.param(models.strings_and_lengths(), "StringTensorUnpack", id="places in strings"),
        pytest.param(models.positive_places((-1, 6)), "NonZero", id="places"),
        pytest.param(models.distinct(), "Unique", id="distinct values"),
        pytest.param(models.two_rows(), "cannot be reshaped", id="two rows at all times"),
        pytest.param(models.one_or_two_rows(), "cannot be reshaped", id="two rows of a constant"),
    ],
)
def test_models_without_a_proof_say_why(model: ov.Model, reason: str) -> None:
    with pytest.raises(NotProven, match=reason):
        proven(model)


def test_a_detector_takes_images_apart_itself() -> None:
    assert (Detections(200),) == proven(spots_model(), open_axes=[2, 3])


def test_what_becomes_of_detections_has_to_be_their_output() -> None:
    model = spots_model()
    found = model.output(0).get_node().input_value(0)
    halved = ops.result(ops.multiply(found, number(0.5)))
    with pytest.raises(NotProven, match="takes the output of a DetectionOutput"):
        proven(ov.Model([halved], model.get_parameters(), "halved"))


def test_images_resized_to_all_four_sizes_keep_their_rows() -> None:
    """As importers of ONNX write it: the number of rows is among the sizes."""
    x = models.parameter([-1, 3, 4, 4])
    sizes = ops.concat([number_of_rows(x), i64(3, 8, 8)], 0)
    y = ops.interpolate(x, sizes, "nearest", "sizes")
    assert (RowsAlong(0, 1),) == proven(models.model((y, "y"), inputs=[x]), open_axes=[2, 3])


@pytest.mark.parametrize("is_open", [True, False])
def test_sizes_that_happen_to_be_one_prove_nothing(is_open: bool) -> None:
    """[H,N,6] as [H*N,6] keeps rows together at H = 1 only."""
    x = models.parameter([-1, 1, 6])
    y = ops.reshape(ops.transpose(x, i64(1, 0, 2)), i64(-1, 6), special_zero=False)
    model = models.model((y, "y"), inputs=[x])
    if is_open:
        with pytest.raises(NotProven, match="merges rows with another dimension"):
            proven(model, open_axes=[1])
    else:
        assert (RowsAlong(0, 1),) == proven(model)


def test_sizes_that_have_to_agree_may() -> None:
    a, b = models.parameter([-1, 4], name="a"), models.parameter([-1, 4], name="b")
    model = models.model((ops.add(a, b), "y"), inputs=[a, b])
    assert (RowsAlong(0, 1),) == proven(model, open_axes=[1])


def test_the_model_stays_as_it_is() -> None:
    model = row_models.of(row_models.APART["attention"])
    before = [(str(node), node.get_friendly_name()) for node in model.get_ordered_ops()]
    proven(model)
    assert before == [(str(node), node.get_friendly_name()) for node in model.get_ordered_ops()]


# Chains of operations ---------------------------------------------------------------------------


def _shaped(x: Any, *sizes: int) -> Any:
    return ops.reshape(x, i64(*sizes), special_zero=False)


STEPS: dict[str, Any] = {
    **{
        f"transposed {order}": lambda x, o=order: ops.transpose(x, i64(*o))
        for order in [(1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)]
    },
    **{
        f"shaped {sizes}": lambda x, s=sizes: _shaped(x, *s)
        for sizes in [
            (-1, 2, 6),
            (-1, 6, 4),
            (2, -1, 6),
            (4, -1, 6),
            (-1, 12, 2),
            (1, -1, 6),
            (24, 1, -1),
        ]
    },
    **{f"softmax {axis}": lambda x, a=axis: ops.softmax(x, a) for axis in (0, 1, 2)},
    **{f"sum {axis}": lambda x, a=axis: ops.cum_sum(x, ops.constant(a)) for axis in (0, -1)},
    **{
        f"less mean {axis}": lambda x, a=axis: ops.subtract(x, ops.reduce_mean(x, i64(a), True))
        for axis in (-3, -2)
    },
    **{f"itself {t}": lambda x, t=t: ops.matmul(x, x, not t, t) for t in (True, False)},
    "counted": lambda x: ops.add(x, ops.convert(number_of_rows(x), "f32")),
    "first": lambda x: ops.add(x, ops.gather(x, i64(0), ops.constant(1))),
    "wide": lambda x: ops.tile(x, i64(1, 1, 2)),
}


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
def test_what_is_proven_of_a_chain_of_operations_holds(steps: list[str]) -> None:
    x = models.parameter([-1, 4, 6])
    try:
        y = x
        for step in steps:
            y = STEPS[step](y)
        model = models.model((y, "y"), inputs=[x])
        (rule,) = proven(model)
    except (RuntimeError, NotProven):
        return  # no model, or no proof: nothing is claimed
    assert isinstance(rule, RowsAlong)
    rows = np.random.default_rng(1).normal(size=(6, 4, 6)).astype(np.float32)
    expected = np.concatenate([answers(model, row[None]) for row in rows], rule.axis)
    np.testing.assert_allclose(expected, answers(model, rows), rtol=1e-3, atol=1e-4)
