"""Settings of a model that agree, and settings that contradict each other."""

from typing import Any

import pytest

from tests.settings.model_settings import model, refusal


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": "(4,3)", "batch_size": 4},
        {"shape": "(-1,3)", "batch_size": 4},
        {"shape": "(1:8,3)", "batch_size": 4},
        {"shape": "auto", "batch_size": 4},
        {"shape": {"a": "(4,3)", "sizes": "(1,2)"}, "batch_size": 4},
        {"shape": "(1:4,3)", "warm_up": ["(1,3)", "(4,3)"], "max_compiled_shapes": 2},
        {"shape": {"a": "(1:4,3)"}, "warm_up": ["(1,3)"]},
        {"shape": {"a": "auto", "b": "(1,3)"}, "warm_up": [{"a": "(1,2)"}]},
        {"shape": {"a": "auto"}, "warm_up": [{"a": "(1,2)", "unlisted": "(7)"}]},
        {"batch_size": 4, "warm_up": ["(4,3)", {"a": "(4,3)", "sizes": "(1,2)"}]},
        {"batching": {"max_rows": 1, "stacking": "never"}},
        {"layout": "HWN:NHW", "shape": "(5,6,4)", "batch_size": 4},
        {"layout": {"a": "CN"}, "shape": {"a": "(3,4)"}, "batch_size": 4},
        {"layout": {"a": "CN"}, "shape": "(3,4)", "batch_size": 4, "warm_up": ["(3,4)"]},
        {"layout": "CN", "batch_size": 4, "warm_up": ["(3,4)", {"a": "(3,4)"}]},
        {"layout": "N...", "shape": "(1,2,3,4,5)"},
        {"layout": "CHW", "shape": "(3,4,5)"},
    ],
)
def test_settings_that_agree_are_accepted(changes: dict[str, Any]) -> None:
    accepted = model(**changes).model_dump(exclude_unset=True)
    assert changes == {name: accepted[name] for name in changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"shape": "(1,3)", "batch_size": 4},
            "shape '(1,3)' does not allow batch_size 4, set only one",
        ),
        (
            {"shape": "(1:3,3)", "batch_size": 4},
            "shape '(1:3,3)' does not allow batch_size 4, set only one",
        ),
        ({"shape": "()", "batch_size": 1}, "shape '()' does not allow batch_size 1, set only one"),
        (
            {"shape": {"a": "(1,3)"}, "batch_size": 4},
            "shape {'a': '(1,3)'} does not allow batch_size 4, set only one",
        ),
        (
            {"warm_up": ["(1)", "(2)"], "max_compiled_shapes": 1},
            "warm_up has 2 shapes, max_compiled_shapes keeps 1 of them",
        ),
        (
            {"shape": "(1,3)", "warm_up": ["(1,3)", "(1,4)"]},
            "warm_up[1] '(1,4)' is outside shape '(1,3)'",
        ),
        (
            {"shape": "(1,3)", "warm_up": [{"a": "(1,4)"}]},
            "warm_up[0] {'a': '(1,4)'} is outside shape '(1,3)'",
        ),
        (
            {"shape": {"a": "(2:5)"}, "warm_up": ["(6)"]},
            "warm_up[0] '(6)' is outside shape '(2:5)' of input 'a'",
        ),
        (
            {"shape": {"a": "auto", "b": "auto"}, "warm_up": ["(6)"]},
            "warm_up[0] '(6)' names no input, shape names several (a, b)",
        ),
        (
            {"shape": {"a": "auto", "b": "auto"}, "warm_up": [{"a": "(6)"}]},
            "warm_up[0] {'a': '(6)'} leaves out input 'b'",
        ),
        (
            {"batch_size": 4, "warm_up": ["(1,3)"]},
            "warm_up[0] '(1,3)' is outside batch_size 4",
        ),
        (
            {"shape": "(1,3)", "batch_size": 4, "warm_up": ["(4,3)"]},
            (
                "shape '(1,3)' does not allow batch_size 4, set only one; "
                "warm_up[0] '(4,3)' is outside shape '(1,3)'"
            ),
        ),
        (
            {"layout": "CN", "shape": "(4,3)", "batch_size": 4},
            "shape '(4,3)' does not allow batch_size 4, set only one",
        ),
        (
            {"layout": "CN", "batch_size": 4, "warm_up": ["(4,3)"]},
            "warm_up[0] '(4,3)' is outside batch_size 4",
        ),
        (
            {"layout": "CHW", "batch_size": 4},
            "layout 'CHW' has no batch N for batch_size 4",
        ),
        (
            {"layout": "HWN:NHW", "shape": "(1,3,300,300)"},
            "shape '(1,3,300,300)' does not have the dimensions of layout HWN",
        ),
        (
            {"layout": {"a": "CN"}, "shape": {"a": "(1)", "b": "(1)"}},
            "shape '(1)' does not have the dimensions of layout CN",
        ),
        (
            {"batching": {"max_rows": 1, "stacking": "always"}},
            "stacking 'always' needs max_rows above 1, max_rows 1 stacks nothing",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason == refusal(**changes)
