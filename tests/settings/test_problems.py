from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.settings.problems import (
    KeyPath,
    Problem,
    closest,
    from_validation,
    must_be,
    nested_model,
    spell,
    suggestion,
    unknown_key,
)


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Field(default=1, ge=1)
    mode: Literal["fast", "slow"] = "fast"


class Root(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    leaves: list[Leaf] = Field(default_factory=list)
    either: str | list[Leaf] = ""
    auto: Literal["auto"] | int = "auto"
    name: str
    texts: dict[str, str] = Field(default_factory=dict)
    some: list[int] = Field(default=[1], min_length=1)
    share: float = 0.5

    @field_validator("name")
    @classmethod
    def _no_blanks(cls, name: str) -> str:
        if " " in name:
            raise ValueError(f"{name!r} has\n  blanks")
        return name


def lines(given: Any) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        Root.model_validate(given)
    return [str(problem) for problem in from_validation(raised.value, Root, given)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ""),
        (("models", 0, "shape"), "models[0].shape"),
        (("a", "x.y", 1, 2), "a['x.y'][1][2]"),
        (("face-detection", "RAY_SERVE_X"), "face-detection.RAY_SERVE_X"),
        (("", 0), "[''][0]"),
    ],
)
def test_a_path_is_spelled_as_people_write_it(path: KeyPath, expected: str) -> None:
    assert expected == spell(path)


def test_a_problem_of_a_part_is_seen_from_the_whole() -> None:
    problem = Problem(("models", 0), "is wrong")
    assert str(problem) == "models[0]: is wrong"
    assert str(problem.under(("args",))) == "args.models[0]: is wrong"
    assert str(Problem((), "is wrong")) == "is wrong"
    assert str(Problem((), "is wrong").under(("args",))) == "args: is wrong"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["name: required setting is missing"]),
        ({"name": "a b"}, ["name: 'a b' has blanks"]),
        ({"name": 5}, ["name: must be text, not 5: put it in quotes"]),
        ({"name": None}, ["name: must be text, not empty"]),
        ({"name": []}, ["name: must be text, not a list"]),
        ({"name": "a", "nmae": 1}, ["nmae: unknown setting, did you mean 'name'?"]),
        ({"name": "a", 7: 1}, ["7: unknown setting, known here: "]),
        ({"name": "a", "leaves": {}}, ["leaves: must be a list, not a mapping"]),
        ({"name": "a", "leaves": [7]}, ["leaves[0]: must be a mapping, not 7"]),
        ({"name": "a", "share": "much"}, ["share: must be a number, not 'much'"]),
        ({"name": "a", "some": []}, ["some: needs at least 1 entries"]),
        (
            {"name": "a", "leaves": [{"size": True}]},
            ["leaves[0].size: must be an integer, not true"],
        ),
        ({"name": "a", "leaves": [{"size": 0}]}, ["leaves[0].size: must be at least 1, not 0"]),
        (
            {"name": "a", "leaves": [{}, {"mode": "fats"}]},
            ["leaves[1].mode: must be 'fast' or 'slow', not 'fats'"],
        ),
        (
            {"name": "a", "leaves": [{"siez": 0}]},
            ["leaves[0].siez: unknown setting, did you mean 'size'?"],
        ),
        (
            {"name": "a", "leaves": [{"colour": 0}]},
            ["leaves[0].colour: unknown setting, known here: mode, size"],
        ),
        (
            {"name": "a", "texts": {"x.y": 1}},
            ["texts['x.y']: must be text, not 1: put it in quotes"],
        ),
        ([], ["must be a mapping, not a list"]),
        (None, ["must be a mapping, not empty"]),
    ],
)
def test_each_mistake_becomes_a_line_with_its_path(given: object, expected: list[str]) -> None:
    found = lines(given)
    assert len(expected) == len(found)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_all_mistakes_are_listed() -> None:
    assert lines({"name": 1, "auto": "aut", "leaves": [{"size": -1}]}) == [
        "leaves[0].size: must be at least 1, not -1",
        "auto: must be 'auto' or an integer, not 'aut'",
        "name: must be text, not 1: put it in quotes",
    ]


def test_the_types_of_a_union_make_one_line() -> None:
    assert lines({"name": "a", "either": {}}) == ["either: must be text or a list, not a mapping"]


def test_a_union_that_fails_inside_is_reported_inside_only() -> None:
    assert lines({"name": "a", "either": [{"size": "2"}]}) == [
        "either[0].size: must be an integer, not '2'"
    ]


def test_long_values_are_cut() -> None:
    (line,) = lines({"name": "a", "share": "9" * 5000})
    assert len(line) < 150


def test_unknown_names_come_with_the_likely_one_or_all_there_are() -> None:
    known = ["shape", "source"]
    assert unknown_key("shpae", known) == "unknown setting, did you mean 'shape'?"
    assert suggestion("x", known) == "known here: shape, source"
    assert closest("sorce", known) == "source"
    assert closest("x", known) is None


def test_only_errors_that_quotes_would_mend_suggest_quotes() -> None:
    assert must_be("text", 384) == "must be text, not 384: put it in quotes"
    assert must_be("a number", 384) == "must be a number, not 384"
    assert must_be("text", {}) == "must be text, not a mapping"


def test_the_model_within_a_type_is_found() -> None:
    assert nested_model(list[dict[str, Any] | Leaf] | None) is Leaf
    assert nested_model(str | list[int]) is None
