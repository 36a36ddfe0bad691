"""All problems of a configuration, in Ray's part and in anyshape's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.check.ray_schema import at, entries, ray_problems
from deployments.settings import INGRESS_NAME, Settings, SettingsError, changed, settings_from
from deployments.settings.problems import KeyPath, Problem, suggestion

BUILDERS = ("deployments.app:build", "deployments.app.build")


def problems(config: object) -> list[Problem]:
    """All problems of a configuration."""
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
            text = f"there is no deployment '{name}', {suggestion(name, names)}"
            yield Problem((*place, "name"), text)
        elif isinstance(deployment, Mapping) and "user_config" in deployment:
            problems = _user_config_problems(name, deployment["user_config"], settings)
            yield from (problem.under((*place, "user_config")) for problem in problems)


def _user_config_problems(
    name: object, user_config: object, settings: Settings | None
) -> Sequence[Problem]:
    """Problems of a user_config, which changes a model's settings; the ingress takes none."""
    if name == INGRESS_NAME:
        return [Problem((), f"'{INGRESS_NAME}' takes no user_config, set its models in args")]
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
