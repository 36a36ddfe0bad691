"""The settings under `applications[].args` of serve_config.yaml.

They are checked when the application is built: unknown keys, wrong types and settings that
contradict each other are refused. `python -m deployments.settings` prints them as Markdown.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from deployments.dimensions import spell
from deployments.settings.markdown import render
from deployments.settings.model import INGRESS_NAME, Batching, ModelSettings
from deployments.settings.problems import Problem, from_validation
from deployments.settings.source import AtLeastOne, Group, RemoteFile

__all__ = [
    "INGRESS_NAME",
    "REPOSITORY_VARIABLE",
    "Batching",
    "Limits",
    "ModelSettings",
    "RemoteFile",
    "Settings",
    "SettingsError",
    "changed",
    "settings_from",
    "settings_table",
]

REPOSITORY_VARIABLE = "ANYSHAPE_MODELS"
MiB = 2**20


class SettingsError(ValueError):
    """Raised when settings cannot be used; its text has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Limits(Group):
    """What one request may cost; beyond it the answer is 413, unless said otherwise."""

    body_bytes: AtLeastOne = Field(
        default=256 * MiB,
        description="Largest request body, before and after gunzip, or gRPC message, and most "
        "bytes that the pictures of a request may decode to. All of them are held in memory. For "
        "more over gRPC, raise `RAY_SERVE_GRPC_MAX_MESSAGE_SIZE` in `serve_config.yaml` too.",
    )
    elements: AtLeastOne = Field(
        default=2**28,
        description="Largest number of elements in one tensor, whatever its datatype.",
    )
    strings: AtLeastOne = Field(
        default=2**20,
        description="Largest number of elements in one BYTES tensor. Each is an object of its own, "
        "which takes longer to read than a number.",
    )
    rank: AtLeastOne = Field(default=8, description="Largest number of dimensions of one tensor.")
    image_pixels: AtLeastOne = Field(
        default=64_000_000,
        description="Largest width times height of a picture, read from its header before it is "
        "decoded, and of the size that it is resized to. A pixel takes 3 bytes decoded, 12 as f32.",
    )
    json_depth: AtLeastOne = Field(
        default=16, description="Deepest nesting of lists and objects in JSON."
    )
    json_bytes: AtLeastOne = Field(
        default=16 * MiB,
        description="Largest JSON part of a request, and most of a gRPC message that is not raw "
        "tensor data. Parsing JSON holds up everything else in the ingress replica for some 20 ms "
        "a MiB and takes several times its size in memory, so send large tensors by the binary "
        "extension or in `raw_input_contents`, which this does not bound.",
    )
    batch_rows: AtLeastOne = Field(
        default=4096,
        description="Largest first dimension of one request, the pictures in it included.",
    )
    inputs: AtLeastOne = Field(default=64, description="Most named tensors in one request.")
    queue_length: AtLeastOne = Field(
        default=4096,
        description="Requests that may wait for one model in one ingress replica; further ones are "
        "answered with 503. Longer queues turn overload into latency instead of errors.",
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which a request is answered with 504. A request may ask for "
        "less, not for more.",
    )
    shared_memory_bytes: AtLeastOne = Field(
        default=512 * MiB,
        description="Shared memory in which each ingress replica hands tensors to the models on "
        "its node, and each model replica its outputs back. Only what is in use takes memory; a "
        "body of more than a quarter of it, or one that finds it full, crosses in a slower way. "
        "Large outputs stay there until clients have read them, as long as those are a quarter of "
        "it.",
    )


class Settings(Group):
    """The server."""

    models: list[ModelSettings] = Field(
        min_length=1,
        description="The models to serve. One that cannot be loaded says why and does not stop the "
        "others.",
    )
    model_repository: str = Field(
        default="models",
        description="Directory with the models' files, laid out `<name>/<version>/<files>`, where "
        "downloads land too. A relative one starts at the directory in which the server was "
        f"started. The environment variable `{REPOSITORY_VARIABLE}` overrides it.",
    )
    cache_dir: str | None = Field(
        default=None,
        description="Directory in which compilations are kept from one start to the next "
        "(OpenVINO's `CACHE_DIR`), with what `models[].remember_shapes` remembers. Starts are "
        "faster; each shape takes about as much disk as the model's weights.",
    )
    cache_bytes: AtLeastOne = Field(
        default=4 * 2**30,
        description="Most that the compilations of one model take in `cache_dir`, on each node. "
        "Those that were not used for longest are removed first.",
    )
    model_control: bool = Field(
        default=False,
        description="Whether clients may load and unload models over the API. Whoever reaches the "
        "server can then take models from all others.",
    )
    limits: Limits = Field(
        default_factory=Limits, description="What one request may cost the server."
    )

    def repository_path(self) -> Path:
        """The absolute path of the model repository; the environment variable goes first."""
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
    """Read `applications[].args`; SettingsError has a line for each problem."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        raise SettingsError(list(from_validation(error, Settings, args))) from None


def changed(
    model: ModelSettings, user_config: object, limits: Limits, *, cached: bool
) -> ModelSettings:
    """The model's settings with those of its deployment's `user_config`, which go first.

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


def settings_table() -> str:
    """All settings in Markdown, a table for each group."""
    return render(Settings)


def _nowhere(cached: bool, model: ModelSettings) -> Iterator[str]:
    """What has no place where it could be kept, or two."""
    if not cached and model.remember_shapes:
        yield f"has remember_shapes {model.remember_shapes}, which needs cache_dir"
    if cached and "CACHE_DIR" in model.plugin_config:
        yield "has CACHE_DIR in its plugin_config, beside cache_dir"


def _beyond(limits: Limits, model: ModelSettings) -> Iterator[str]:
    """Why every request for the model would be over a limit."""
    if isinstance(model.batch_size, int) and model.batch_size > limits.batch_rows:
        yield f"has batch_size {model.batch_size}, limits.batch_rows is {limits.batch_rows}"
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
                    f"which is never within limits.{limit} ({getattr(limits, limit)})"
                )


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
