"""Finds mistakes in Ray's own part of serve_config.yaml.

Ray ignores unknown keys, so that old versions can read files for new ones. This module compares the
file with Ray's schema to find them, and then runs Ray's own validation.
"""

import copy
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import ray
import ray.serve
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import ServeDeploySchema

from deployments.settings.problems import (
    KeyPath,
    Problem,
    closest,
    from_validation,
    must_be,
    nested_model,
    unknown_key,
)

PREFIX = "RAY_SERVE_"
# Ray's models import what these keys name; `_refused` reports a failed import.
_IMPORTING = ("policy", "request_router_class")
CONTROLLER_ENV: KeyPath = ("controller_options", "runtime_env")


def ray_problems(config: object) -> list[Problem]:
    """All problems outside of `applications[].args`, each once."""
    found = [*_walk(config, ServeDeploySchema, ()), *_refused(config), *_environments(config)]
    return list(dict.fromkeys(found))


# Keys and values --------------------------------------------------------------------------------


def _walk(value: object, model: type[BaseModel], path: KeyPath) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path, must_be("a mapping", value))
        return
    for key, item in value.items():
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            yield Problem((*path, str(key)), unknown_key(key, model.model_fields))
            continue
        inner = nested_model(field.annotation)
        if inner is not None and item is not None:
            for place, entry in _entries(item, field.annotation, (*path, str(key))):
                yield from _walk(entry, inner, place)
                yield from _refused_late(entry, inner, place)


def _entries(value: object, annotation: Any, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """The value itself, or its entries if the field takes a list."""
    if not _takes_list(annotation):
        yield path, value
    elif isinstance(value, list):  # otherwise `_refused` reports it
        yield from (((*path, index), entry) for index, entry in enumerate(value))


def _takes_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_takes_list, get_args(annotation)))


def _refused(config: object) -> Iterator[Problem]:
    """Problems for which Ray would refuse the file when it reads it."""
    try:
        ServeDeploySchema.model_validate(copy.deepcopy(config))  # its validators write into it
    except ValidationError as error:
        for problem in from_validation(error, ServeDeploySchema, config):
            if problem.path != CONTROLLER_ENV:  # `_environments` reports it with the key's path
                yield problem
    except Exception as error:  # a value of a type that a validator did not expect, a failed import
        yield Problem((), f"Ray cannot read it: {' '.join(str(error).split())}")


def _refused_late(value: object, model: type[BaseModel], path: KeyPath) -> Iterator[Problem]:
    """Problems that Ray finds only when it starts the deployment; its schema takes any mapping."""
    if model not in (AutoscalingConfig, RequestRouterConfig) or not isinstance(value, Mapping):
        return
    try:
        model.model_validate({key: value[key] for key in value if key not in _IMPORTING})
    except ValidationError as error:
        for problem in from_validation(error, model, value):
            if problem.path:  # a problem of the whole ignores Ray's defaults for "auto"
                yield problem.under(path)


# Runtime environments ---------------------------------------------------------------------------


def _environments(config: object) -> Iterator[Problem]:
    controller = at(config, *CONTROLLER_ENV)
    yield from _environment(controller, CONTROLLER_ENV, {"env_vars"})
    public = {name for name in RuntimeEnv.known_fields if not name.startswith("_")}
    for index, application in enumerate(entries(config, "applications")):
        path: KeyPath = ("applications", index, "runtime_env")
        yield from _environment(at(application, "runtime_env"), path, public)
        yield from _disagreements(controller, at(application, "runtime_env"), path)
        for number, deployment in enumerate(entries(application, "deployments")):
            place: KeyPath = (*path[:2], "deployments", number, "ray_actor_options", "runtime_env")
            yield from _environment(at(deployment, *place[-2:]), place, public)


def _environment(environment: object, path: KeyPath, known: Iterable[str]) -> Iterator[Problem]:
    if environment is None:
        return
    if not isinstance(environment, Mapping):
        yield Problem(path, must_be("a mapping", environment))
        return
    for key, value in environment.items():
        if key not in known:
            yield Problem((*path, str(key)), unknown_key(key, known))
        elif key == "config" and isinstance(value, Mapping):
            for name in value:
                if name not in RuntimeEnvConfig.known_fields:
                    text = unknown_key(name, RuntimeEnvConfig.known_fields)
                    yield Problem((*path, "config", str(name)), text)
        elif key == "env_vars":
            yield from _variables(value, (*path, "env_vars"))


def _variables(variables: object, path: KeyPath) -> Iterator[Problem]:
    if not isinstance(variables, Mapping):
        yield Problem(path, must_be("a mapping", variables))
        return
    for name, value in variables.items():
        if not isinstance(value, str):
            # The text omits the value, which may be a secret.
            yield Problem((*path, str(name)), "must be text: put it in quotes")
        if str(name).startswith(PREFIX) and name not in serve_variables():
            yield Problem((*path, str(name)), _unread(str(name)))


def _unread(name: str) -> str:
    # Compared without the prefix, which would make all names similar.
    suffixes = [known.removeprefix(PREFIX) for known in serve_variables()]
    close = closest(name.removeprefix(PREFIX), suffixes)
    hint = f", did you mean '{PREFIX}{close}'?" if close else ""
    return f"Ray Serve {ray.__version__} reads no such variable{hint}"


def _disagreements(controller: object, application: object, path: KeyPath) -> Iterator[Problem]:
    """RAY_SERVE_* variables that differ between the controller and the replicas: both read them."""
    ours, theirs = _serve_settings(application), _serve_settings(controller)
    here: KeyPath = (*path, "env_vars")
    there: KeyPath = (*CONTROLLER_ENV, "env_vars")
    for name, value in theirs.items():
        if name not in ours:
            text = f"required setting is missing: controller_options has it with {value!r}"
            yield Problem((*here, name), text)
        elif ours[name] != value:
            text = f"must be {value!r} as under controller_options, not {ours[name]!r}"
            yield Problem((*here, name), text)
    for name in sorted(ours.keys() - theirs.keys()):
        text = f"required setting is missing: applications[{path[1]}] has it with {ours[name]!r}"
        yield Problem((*there, name), text)


def _serve_settings(environment: object) -> dict[str, object]:
    variables = at(environment, "env_vars")
    if not isinstance(variables, Mapping):
        return {}
    return {name: value for name, value in variables.items() if str(name).startswith(PREFIX)}


@functools.cache
def serve_variables() -> frozenset[str]:
    """Every RAY_SERVE_* variable that the installed Ray Serve's sources mention."""
    sources = Path(ray.serve.__file__).parent.rglob("*.py")
    pattern = re.compile(r"\bRAY_SERVE_[A-Z0-9_]*[A-Z0-9]\b")
    return frozenset(
        name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8"))
    )


def at(document: object, *keys: str | int) -> Any:
    """The value at the end of the keys, None if one of them is missing."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def entries(document: object, *keys: str | int) -> list[Any]:
    """The list at the end of the keys, empty if there is none."""
    value = at(document, *keys)
    return value if isinstance(value, list) else []
