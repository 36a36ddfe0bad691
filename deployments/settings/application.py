"""The settings of the application, `applications[].args` of serve_config.yaml.

They are checked when the application is built: unknown keys, wrong types and settings that
contradict each other are refused.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from deployments.dimensions import spell
from deployments.settings.limits import Limits
from deployments.settings.model import ModelSettings
from deployments.settings.problems import Problem, from_validation
from deployments.settings.source import AtLeastOne, Group

REPOSITORY_VARIABLE = "ANYSHAPE_MODELS"


class SettingsError(ValueError):
    """Raised when settings are invalid; its text has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Settings(Group):
    """The server."""

    models: list[ModelSettings] = Field(
        min_length=1,
        description="The models to serve. One that cannot be loaded reports why and does not "
        "stop the others.",
    )
    model_repository: str = Field(
        default="models",
        description="Directory of the models' files, laid out `<name>/<version>/<files>`. "
        "Downloads land there too. A relative path starts at the directory in which the server "
        f"was started. The environment variable `{REPOSITORY_VARIABLE}` overrides it.",
    )
    cache_dir: str | None = Field(
        default=None,
        description="Directory that keeps compilations from one start to the next (OpenVINO's "
        "`CACHE_DIR`), and the shapes of `models[].remember_shapes`. Starts are faster; each "
        "shape takes about as much disk as the model's weights.",
    )
    cache_bytes: AtLeastOne = Field(
        default=4 * 2**30,
        description="Maximum size of one model's compilations in `cache_dir`, on each node. The "
        "least recently used ones are removed first.",
    )
    model_control: bool = Field(
        default=False,
        description="Whether clients may load and unload models over the API. Every client that "
        "reaches the server can then unload models that others use.",
    )
    limits: Limits = Field(
        default_factory=Limits, description="What one request may cost the server."
    )

    def repository_path(self) -> Path:
        """The absolute path of the model repository; the environment variable overrides it."""
        place = os.environ.get(REPOSITORY_VARIABLE) or self.model_repository
        return Path(place).expanduser().absolute()

    def cache_path(self) -> Path | None:
        """The absolute path of `cache_dir`, if there is one."""
        return Path(self.cache_dir).expanduser().absolute() if self.cache_dir else None

    @field_validator("models")
    @classmethod
    def _unique_names(cls, models: list[ModelSettings]) -> list[ModelSettings]:
        for name, count in Counter(model.name for model in models).items():
            if count > 1:
                raise ValueError(f"has {count} models named '{name}'")
        return models

    @field_validator("model_repository", "cache_dir")
    @classmethod
    def _named_directory(cls, place: str | None) -> str | None:
        if place is not None and (not place.strip() or "\0" in place):
            raise ValueError(f"{place!r} is not a path")
        return place

    @model_validator(mode="after")
    def _servable(self) -> "Settings":
        contradictions = "; ".join(
            f"model '{model.name}' {complaint}"
            for model in self.models
            for complaint in (
                *_beyond(self.limits, model),
                *_nowhere(self.cache_dir is not None, model),
            )
        )
        if contradictions:
            raise ValueError(contradictions)
        return self


def settings_from(args: Mapping[str, Any]) -> Settings:
    """Reads `applications[].args`; SettingsError has a line for each problem."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        raise SettingsError(list(from_validation(error, Settings, args))) from None


def changed(
    model: ModelSettings, user_config: object, limits: Limits, *, cached: bool
) -> ModelSettings:
    """The model's settings, overridden by its deployment's `user_config`.

    `cached` says whether there is a `cache_dir`. Raises SettingsError.
    """
    if not isinstance(user_config, Mapping):
        raise SettingsError([Problem((), f"user_config is {user_config!r:.100}, not a mapping")])
    if user_config.get("name", model.name) != model.name:
        raise SettingsError([Problem(("name",), f"the model's name stays '{model.name}'")])
    whole = model.model_dump(exclude_unset=True) | dict(user_config)
    if isinstance(batching := user_config.get("batching"), Mapping):
        whole["batching"] = model.batching.model_dump(exclude_unset=True) | dict(batching)
    try:
        settings = ModelSettings.model_validate(whole)
    except ValidationError as error:
        raise SettingsError(list(from_validation(error, ModelSettings, whole))) from None
    if complaints := [*_beyond(limits, settings), *_nowhere(cached, settings)]:
        raise SettingsError([Problem((), complaint) for complaint in complaints])
    return settings


def _nowhere(cached: bool, model: ModelSettings) -> Iterator[str]:
    """Contradictions about where compilations are kept: no directory, or two."""
    if not cached and model.remember_shapes:
        yield f"has remember_shapes {model.remember_shapes}, which needs cache_dir"
    if cached and "CACHE_DIR" in model.plugin_config:
        yield "has CACHE_DIR in its plugin_config and cache_dir, set only one of them"


def _beyond(limits: Limits, model: ModelSettings) -> Iterator[str]:
    """The reasons why every request for the model would exceed a limit."""
    if isinstance(model.batch_size, int) and model.batch_size > limits.batch_rows:
        size, most = model.batch_size, limits.batch_rows
        yield f"has batch_size {size}, which exceeds limits.batch_rows ({most})"
    for name, rule in model.rules():
        if isinstance(rule, str):
            continue
        smallest = [dim.minimum for dim in rule]
        batch = model.preprocessing.batch_axis(name, len(rule))
        for value, limit in (
            (len(smallest), "rank"),
            (math.prod(smallest), "elements"),
            (0 if batch is None else smallest[batch], "batch_rows"),
        ):
            if value > getattr(limits, limit):
                yield (
                    f"has shape '{spell(rule)}', "
                    f"which always exceeds limits.{limit} ({getattr(limits, limit)})"
                )
