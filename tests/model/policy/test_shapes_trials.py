"""The shapes that a model is tried at, and their keys."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.dimensions import Dim, parse_dims
from deployments.inference import InputSpec
from deployments.model.openvino.runtime import ModelInput
from deployments.model.policy.shapes import to_compile, trial_key, trial_shapes


def trials(own: str, rule: str) -> list[tuple[int, ...]]:
    inputs = [ModelInput("x", "FP32", parse_dims(own))]
    return [shape for (shape,) in trial_shapes(inputs, [parse_dims(rule)])]


def test_a_model_is_tried_at_its_own_shape_with_one_row_first_and_then_as_it_is() -> None:
    assert [(1, 3, 8, 8), (4, 3, 8, 8)] == trials("(4,3,8,8)", "(-1,3,-1,-1)")


def test_a_closed_batch_is_kept() -> None:
    assert [(4, 6)] == trials("(4,6)", "(4,6)")


def test_open_dimensions_are_guessed() -> None:
    shapes = trials("(-1,3,-1,-1)", "(-1,3,-1,-1)")
    assert (1, 3, 64, 64) == shapes[0]
    assert (1, 3, 1, 1) in shapes
    assert len(shapes) == len(set(shapes))


def test_the_model_s_own_sizes_give_way_to_the_rule() -> None:
    assert (2, 3, 201, 20) == trials("(1,3,8,8)", "(2:3,3,201:210,20)")[0]


dims = st.builds(
    lambda low, more: Dim(low, None if more is None else low + more),
    st.integers(0, 300),
    st.none() | st.integers(0, 300),
)


@given(st.lists(st.tuples(dims, dims), max_size=4))
def test_every_trial_shape_is_accepted_and_none_comes_twice(pairs: list[tuple[Dim, Dim]]) -> None:
    own, rule = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    shapes = [shape for (shape,) in trial_shapes([ModelInput("x", "FP32", own)], [rule])]
    assert shapes
    assert len(shapes) == len(set(shapes))
    for shape in shapes:
        assert all(dim.accepts(n) for dim, n in zip(rule, shape, strict=True))


def test_a_key_is_compiled_with_its_rows_left_open_within_the_rule() -> None:
    inputs = (
        InputSpec("a", "FP32", parse_dims("(2:9,-1)"), 0),
        InputSpec("b", "FP32", parse_dims("(-1,5)"), None),
        InputSpec("c", "FP32", ()),
    )
    key = trial_key(inputs, [(3, 7), (3, 5), ()])
    assert ((-1, 7), (3, 5), ()) == key
    assert ((Dim(2, 9), 7), (3, 5), ()) == to_compile(inputs, key)
