import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.settings import (
    Limits,
    ModelSettings,
    Settings,
    SettingsError,
    changed,
    settings_from,
    settings_table,
)
from deployments.settings.in_place import CHANGED_IN_PLACE, LOADED_ANEW
from deployments.settings.problems import Problem, nested_model

SPOTS = {"name": "spots", "source": "builtin:spots"}


def args(**changes: Any) -> dict[str, Any]:
    return {"models": [SPOTS], **changes}


def refusal(given: Any) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        settings_from(given)
    return str(raised.value).splitlines()


def test_one_model_is_all_that_has_to_be_set() -> None:
    settings = settings_from(args())
    assert [model.name for model in settings.models] == ["spots"]
    assert settings.models[0].shape == "auto"
    assert settings.limits == Limits()


def test_the_class_reads_the_same_arguments_when_ray_calls_it() -> None:
    assert settings_from(args()) == Settings.model_validate(args())
    with pytest.raises(ValidationError):
        Settings.model_validate(args(limit={}))


def test_a_mistyped_setting_is_named_with_its_path_and_the_likely_one() -> None:
    models = [{**SPOTS, "shpae": "auto", "batching": {"max_row": 1}}]
    assert refusal({"models": models, "limits": {"body_byte": 1}}) == [
        "models[0].batching.max_row: unknown setting, did you mean 'max_rows'?",
        "models[0].shpae: unknown setting, did you mean 'shape'?",
        "limits.body_byte: unknown setting, did you mean 'body_bytes'?",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["models: required setting is missing"]),
        (None, ["must be a mapping, not empty"]),
        ({"models": None}, ["models: must be a list, not empty"]),
        ({"models": []}, ["models: needs at least 1 entries"]),
        ({"models": [{"name": "a"}]}, ["models[0].source: required setting is missing"]),
        ({"models": [SPOTS, SPOTS]}, ["models: has 2 models named 'spots'"]),
        (args(model_repository=""), ["model_repository: '' is not a path"]),
        (
            args(models=[{**SPOTS, "shape": [1, 3]}]),
            ["models[0].shape: must be text or a mapping, not a list"],
        ),
        (
            args(models=[{**SPOTS, "source": [{"url": "https://example.org/m.xml"}]}]),
            ["models[0].source[0].sha384: required setting is missing"],
        ),
        (
            args(models=[{**SPOTS, "source": [{"url": "m", "sha384": 5}]}]),
            [
                "models[0].source[0].url: 'm' is not a URL that starts with https://",
                "models[0].source[0].sha384: must be text, not 5: put it in quotes",
            ],
        ),
        (
            args(models=[{**SPOTS, "plugin_config": {"NUM_STREAMS": [1]}}]),
            [
                (
                    "models[0].plugin_config.NUM_STREAMS: "
                    "must be text, an integer, a number or true or false, not a list"
                )
            ],
        ),
        (
            args(models=[{**SPOTS, "batch_size": 0}]),
            ["models[0].batch_size: must be 'auto' or at least 1, not 0"],
        ),
        (args(limits={"timeout_s": 0}), ["limits.timeout_s: must be more than 0.0, not 0"]),
        (
            args(limits={"timeout_s": float("inf")}),
            ["limits.timeout_s: must be a finite number, not inf"],
        ),
    ],
)
def test_problems_are_readable_lines(given: Any, expected: list[str]) -> None:
    assert expected == refusal(given)


@pytest.mark.parametrize(
    ("limits", "changes", "reason"),
    [
        (
            {"rank": 3},
            {"shape": "(1,3,300,300)"},
            "has shape '(1,3,300,300)', which always exceeds limits.rank (3)",
        ),
        (
            {"elements": 99},
            {"shape": "(1:2,10,10:20)"},
            "has shape '(1:2,10,10:20)', which always exceeds limits.elements (99)",
        ),
        (
            {"batch_rows": 7},
            {"shape": {"a": "auto", "b": "(8,1)"}},
            "has shape '(8,1)', which always exceeds limits.batch_rows (7)",
        ),
        (
            {"batch_rows": 7},
            {"shape": "(1,8)", "layout": "CN"},
            "has shape '(1,8)', which always exceeds limits.batch_rows (7)",
        ),
        (
            {"batch_rows": 7},
            {"batch_size": 8},
            "has batch_size 8, which exceeds limits.batch_rows (7)",
        ),
    ],
)
def test_a_model_whose_every_request_would_be_over_a_limit_is_refused(
    limits: dict[str, int], changes: dict[str, Any], reason: str
) -> None:
    assert refusal(args(models=[{**SPOTS, **changes}], limits=limits)) == [
        f"model 'spots' {reason}"
    ]


def test_a_shape_at_the_limits_is_accepted() -> None:
    limits = {"rank": 3, "elements": 100, "batch_rows": 1}
    settings = settings_from(args(models=[{**SPOTS, "shape": "(1,10,10:99)"}], limits=limits))
    assert settings.limits.rank == 3


def test_rows_are_counted_along_the_batch_of_the_layout() -> None:
    for layout in ("CN", "HW"):
        model = {**SPOTS, "shape": "(8,1)", "layout": layout}
        assert settings_from(args(models=[model], limits={"batch_rows": 7})).models


def test_the_error_crosses_processes_with_its_problems() -> None:
    error = SettingsError([Problem(("models", 0), "is wrong"), Problem((), "is odd")])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "models[0]: is wrong\nis odd"
    assert copy.problems == error.problems


@pytest.mark.parametrize("variable", ["", None])
def test_the_repository_is_where_the_settings_say(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ANYSHAPE_MODELS", raising=False)
    if variable is not None:
        monkeypatch.setenv("ANYSHAPE_MODELS", variable)
    assert settings_from(args()).repository_path() == tmp_path / "models"
    absolute = settings_from(args(model_repository=str(tmp_path / "here")))
    assert absolute.repository_path() == tmp_path / "here"
    assert settings_from(args(model_repository="~/m")).repository_path() == tmp_path / "home/m"


def test_the_environment_overrides_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYSHAPE_MODELS", "there")
    assert settings_from(args(model_repository="here")).repository_path() == tmp_path / "there"


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        inner = nested_model(field.annotation)
        if inner is not None:
            paths += _paths(inner, f"{prefix}{name}{'[]' if 'list' in str(field) else ''}.")
    return paths


def test_every_setting_is_in_the_table_with_a_meaning() -> None:
    rows = [line.split(" | ") for line in settings_table().splitlines() if line.startswith("| `")]
    assert {f"`{path}`" for path in _paths(Settings)} == {row[0].removeprefix("| ") for row in rows}
    assert all(len(row) == 4 and len(row[3]) > 20 for row in rows)


def test_the_table_shows_defaults_as_they_are_written() -> None:
    table = settings_table()
    assert "| `models[].shape` | text or mapping of text to text | `auto` |" in table
    assert "| `models[].source[].sha384` | text | *required* |" in table
    assert "| `limits.body_bytes` | integer | `268435456` (256 MiB) |" in table
    assert "| `models[].warm_up` | list of text or mapping of text to text | none |" in table


# Changes while it runs ---------------------------------------------------------------------------


def change(user_config: Any, *, cached: bool = False, **model: Any) -> Any:
    """The changed settings, or the lines that say why they are refused."""
    settings = settings_from(args(models=[{**SPOTS, **model}]))
    try:
        return changed(settings.models[0], user_config, settings.limits, cached=cached)
    except SettingsError as error:
        return str(error).splitlines()


def test_what_a_user_config_names_goes_first_and_the_rest_stays() -> None:
    settings = change(
        {"shape": "(1:4,3,-1,-1)", "batching": {"max_rows": 4}},
        max_compiled_shapes=3,
        batching={"stacking": "never"},
    )
    assert ("(1:4,3,-1,-1)", 3) == (settings.shape, settings.max_compiled_shapes)
    assert ("never", 4) == (settings.batching.stacking, settings.batching.max_rows)


@pytest.mark.parametrize(
    ("user_config", "told"),
    [
        (None, "user_config is None, not a mapping"),
        ({"shape": "(1,"}, "shape: '(1,' is not a shape: write 'auto' or '(1,3,300,300)'"),
        ({"shpae": "auto"}, "shpae: unknown setting, did you mean 'shape'?"),
        ({"name": "other"}, "name: the model's name stays 'spots'"),
        ({"batch_size": 5000}, "has batch_size 5000, which exceeds limits.batch_rows (4096)"),
        ({"remember_shapes": 3}, "has remember_shapes 3, which needs cache_dir"),
    ],
)
def test_a_user_config_that_cannot_be_used_says_why(user_config: Any, told: str) -> None:
    assert [told] == change(user_config)


def test_shapes_are_remembered_where_there_is_a_cache() -> None:
    assert 3 == change({"remember_shapes": 3}, cached=True).remember_shapes
    model = {**SPOTS, "remember_shapes": 3}
    told = ["model 'spots' has remember_shapes 3, which needs cache_dir"]
    assert told == refusal(args(models=[model]))
    settings = settings_from(args(models=[model], cache_dir="cache"))
    assert Path("cache").absolute() == settings.cache_path()
    assert settings_from(args()).cache_path() is None


def test_two_places_for_compilations_are_refused() -> None:
    model = {**SPOTS, "plugin_config": {"CACHE_DIR": "there"}}
    told = ["model 'spots' has CACHE_DIR in its plugin_config and cache_dir, set only one of them"]
    assert told == refusal(args(models=[model], cache_dir="here"))
    assert settings_from(args(models=[model])).models


def test_every_setting_of_a_model_is_listed_as_changed_in_place_or_loaded_anew() -> None:
    said = [*CHANGED_IN_PLACE, *LOADED_ANEW]
    assert sorted(ModelSettings.model_fields) == sorted(said)


def test_settings_changed_in_place_do_not_reload_the_model() -> None:
    before = change({})
    in_place = {
        "max_compiled_shapes": 1,
        "promote_after": 1,
        "compiles_per_minute": 1,
        "model_version_policy": "all",
        "poll_s": 0.0,
        "version_labels": {"a": 1},
        "batching": {"max_rows": 2},
    }
    for key, value in in_place.items():
        assert before.loaded_by() == change({key: value}).loaded_by(), key
    loaded = {
        "shape": "(1,3,300,300)",
        "reshape": "blocking",
        "layout": "NHWC:NCHW",
        "warm_up": ["(1,3,9,9)"],
        "plugin_config": {"NUM_STREAMS": 1},
        "batching": {"stacking": "never"},
        "unload_after_s": 1.0,
    }
    for key, value in loaded.items():
        assert before.loaded_by() != change({key: value}).loaded_by(), key
    assert before.loaded_by() != change({"batching": {"max_rows": 1}}).loaded_by()


@pytest.mark.parametrize("setting", ["poll_s", "unload_after_s"])
def test_seconds_that_are_next_to_none_are_refused(setting: str) -> None:
    told = [f"models[0].{setting}: must be 0 or at least 0.01, not 1e-09"]
    assert told == refusal(args(models=[{**SPOTS, setting: 1e-9}]))
    for seconds in (0.0, 0.01):
        assert settings_from(args(models=[{**SPOTS, setting: seconds}])).models
