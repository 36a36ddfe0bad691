from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.dimensions import Dim
from deployments.settings.batching import Batching
from tests.settings.model_settings import model, refusal

# Names ------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_a_name_may_have_letters_digits_and_some_marks(name: str) -> None:
    assert name == model(name=name).name


@pytest.mark.parametrize("name", ["", "-m", ".m", "a b", "a/b", "ä", "m\n", "m" * 65])
def test_other_names_are_refused(name: str) -> None:
    assert refusal(name=name) == (
        f"{name!r} must be 1 to 64 letters, digits, '_', '.' or '-', "
        "the first one a letter or digit"
    )


def test_the_name_of_the_ingress_is_taken() -> None:
    assert refusal(name="Ingress") == "'Ingress' is the name of the deployment in front of models"


# Shapes -----------------------------------------------------------------------------------------


def test_shapes_are_read() -> None:
    assert model().shape_rules == "auto"
    assert model(shape="(1,-1)").shape_rules == (Dim(1, 1), Dim(0, None))
    assert model(shape={"a": "auto", "b": "(2:3)"}).shape_rules == {"a": "auto", "b": (Dim(2, 3),)}


def test_warm_up_shapes_are_read() -> None:
    warm_up = ["(1,3)", {"a": "(1,3)", "b": "()"}]
    assert model(warm_up=warm_up).warm_up_shapes == [(1, 3), {"a": (1, 3), "b": ()}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": "1,3"}, "'1,3' is not a shape: write 'auto' or '(1,3,300,300)'"),
        (
            {"shape": {"a": "(5:1)"}},
            "input 'a': '(5:1)' has the range 5:1, its end must be above",
        ),
        ({"shape": {}}, "names no input"),
        ({"warm_up": ["(1,-1)"]}, "'(1,-1)' leaves a dimension open (-1), it must be one shape"),
        ({"warm_up": ["auto"]}, "'auto' is not a shape"),
        ({"warm_up": [{"a": "(2:3)"}]}, "input 'a': '(2:3)' leaves a dimension open (2:3)"),
        ({"warm_up": [{}]}, "names no input"),
        ({"device": " "}, "is empty"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes).startswith(reason)


# Other values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"max_compiled_shapes": 0},
        {"promote_after": 0},
        {"kernel_cache_mb": 0},
        {"kernel_cache_mb": "much"},
        {"compiles_per_minute": 0},
        {"max_compiled_shapes": True},
        {"max_compiled_shapes": "16"},
        {"batching": {"max_rows": 0}},
        {"batching": {"max_row": 8}},
        {"lay_out": "NHWC"},
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


def test_plugin_properties_keep_their_types() -> None:
    properties = {"NUM_STREAMS": 2, "ENABLE_CPU_PINNING": False, "X": 1.5, "HINT": "f32"}
    kept = model(plugin_config=properties).plugin_config
    assert properties == kept
    assert [type(value) for value in kept.values()] == [int, bool, float, str]


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        model().device = "GPU"
    assert Batching() == model().batching
