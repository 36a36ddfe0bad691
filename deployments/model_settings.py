"""The settings of one served model, an entry of `models` in serve_config.yaml."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from fsspec import available_protocols
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments import dimensions
from deployments.dimensions import ShapeRule
from deployments.problems import meant

BUILTIN_MODELS = ("spots",)
STORES = frozenset(available_protocols()) - {"http", "https"}
"""The schemes that a source may have as a URL; from the web come single files, with their sums."""
INGRESS_NAME = "Ingress"
"""The deployment in front of the models; every model's deployment has the model's name."""

Shape = tuple[int, ...]
StorageOption: TypeAlias = str | int | float | bool | dict[str, Any]
AtLeastOne = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """What all groups of settings have in common."""

    # Strict: YAML has types of its own, and `true` for a number is a mistake.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)


class RemoteFile(Group):
    """A file of a model that is downloaded once (`source` as a list)."""

    url: str = Field(
        description="Fetched once over https into the model repository, where it keeps the last "
        "part of the path as its name; plain http is refused except from localhost."
    )
    sha384: str = Field(
        description="What the file has to hash to, as 96 hexadecimal digits; a download that "
        "differs is thrown away and the model stays unavailable."
    )

    @property
    def file_name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @field_validator("url")
    @classmethod
    def _fetchable(cls, url: str) -> str:
        if re.search(r"[\s\x00-\x1f\x7f]", url):
            raise ValueError(f"{url!r} has blanks or control characters in it")
        try:
            scheme, host, path = urlsplit(url).scheme, urlsplit(url).hostname, urlsplit(url).path
        except ValueError:
            raise ValueError(f"{url!r} is not a URL") from None
        if not host or scheme not in ("https", "http"):
            raise ValueError(f"{url!r} is not a URL that starts with https://")
        if scheme == "http" and host not in ("localhost", "127.0.0.1"):
            raise ValueError(f"{url!r} has to use https, plain http is for localhost only")
        name = unquote(path).rpartition("/")[2]
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", name):
            raise ValueError(f"{url!r} does not end in a file name")
        return url

    @field_validator("sha384")
    @classmethod
    def _digest(cls, text: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{96}", text):
            raise ValueError(f"has to be 96 hexadecimal digits, has {len(text)} characters")
        return text.lower()


class Batching(Group):
    """How requests of one shape are run together."""

    max_rows: AtLeastOne = Field(
        default=32,
        description="Rows (along the first dimension) that are put together at most. More rows "
        "raise throughput under load and the memory and time of a batch; 1 runs every request "
        "by itself.",
    )
    stacking: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="What a batch becomes. `always`: one tensor; `never`: infer requests side by "
        "side; `auto`: whichever was faster when the model was loaded. Models whose results "
        "change when rows are stacked are never stacked.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Batching":
        if self.max_rows == 1 and self.stacking == "always":
            raise ValueError("stacking 'always' needs max_rows above 1, with 1 nothing is stacked")
        return self


class ModelSettings(Group):
    """One served model."""

    name: str = Field(
        description="What clients call the model, in URLs and requests. It also names the model's "
        "deployment in Ray and its directory in the model repository.",
    )
    source: str | list[RemoteFile] = Field(
        description="Where the model comes from: a directory `<dir>/<version>/<files>`, a single "
        "model file (either one absolute or relative to the model repository), `builtin:spots`, "
        "the URL of such a directory in a store (`s3://bucket/dir`, `gs://bucket/dir`, or another "
        "that fsspec knows), or a list of files to download. Files that are already in the "
        "repository are not downloaded; copies from a store are renewed when its files change.",
    )
    storage_options: dict[str, StorageOption] = Field(
        default_factory=dict,
        description="What fsspec's filesystem for the URL in `source` is opened with, such as "
        "`endpoint_url` or `anon: true`. Do not put secrets here, where everyone sees them who "
        "may read this file or Ray's dashboard: the stores' clients find them in the environment.",
    )
    shape: str | dict[str, str] = Field(
        default="auto",
        description="Shapes that requests may have. `auto`: any that the model can be reshaped to; "
        "`(1,3,300,300)`: this one; `-1` and `200:500` leave a dimension open. A mapping gives "
        "each input its own; inputs that it does not list keep the model's shape. Other requests "
        "are answered with 400 and nothing is compiled for them.",
    )
    batch_size: Literal["auto"] | AtLeastOne = Field(
        default="auto",
        description="First dimension of every input. `auto` takes what `shape` allows; a number "
        "refuses requests with any other.",
    )
    reshape: Literal["background", "blocking"] = Field(
        default="background",
        description="What a new shape does. `background`: it is answered at once, a little slower, "
        "by a compilation for all shapes, until its own is ready; `blocking`: its first requests "
        "wait for its own compilation. Models that cannot be compiled for all shapes always block.",
    )
    max_compiled_shapes: AtLeastOne = Field(
        default=16,
        description="Compiled shapes that are kept, per replica. Each one costs memory; a shape "
        "beyond them pushes out the one that was not used for longest, which is compiled again "
        "when it comes back.",
    )
    promote_after: AtLeastOne = Field(
        default=8,
        description="Requests that a shape has to bring within a minute before it gets its own "
        "compilation in `background` mode. Lower gets frequent shapes to full speed sooner, higher "
        "saves compilations for shapes that do not come back.",
    )
    compiles_per_minute: AtLeastOne = Field(
        default=60,
        description="Compilations that may start in the background within a minute. It bounds the "
        "processor time that a flood of new shapes takes from the known ones.",
    )
    plugin_config: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="OpenVINO properties for compiling, such as `INFERENCE_PRECISION_HINT: f32` "
        "for results that do not depend on the processor's bf16 support. A property that the "
        "device does not know makes the model unavailable.",
    )
    device: str = Field(
        default="CPU",
        description="OpenVINO device that runs the model. One that is missing on the machine makes "
        "the model unavailable.",
    )
    warm_up: list[str | dict[str, str]] = Field(
        default_factory=list,
        description="Shapes that are compiled before the model reports ready, so that not even "
        "their first request is slow: `(1,3,300,300)`, or a mapping for several inputs. Each one "
        "makes the start longer.",
    )
    version_labels: dict[str, AtLeastOne] = Field(
        default_factory=dict,
        description="Names for versions, such as `stable: 1`, by which clients of TensorFlow "
        "Serving's API may ask for them.",
    )
    batching: Batching = Field(
        default_factory=Batching, description="How requests of one shape are run together."
    )

    @property
    def remote(self) -> bool:
        """Whether `source` is a URL: a directory of versions in a store."""
        return isinstance(self.source, str) and "://" in self.source

    @property
    def shape_rules(self) -> ShapeRule | dict[str, ShapeRule]:
        """`shape`, read."""
        if isinstance(self.shape, str):
            return dimensions.parse_shape_rule(self.shape)
        return {name: dimensions.parse_shape_rule(text) for name, text in self.shape.items()}

    @property
    def warm_up_shapes(self) -> list[Shape | dict[str, Shape]]:
        """`warm_up`, read."""
        return [
            dimensions.parse_fixed(entry)
            if isinstance(entry, str)
            else {name: dimensions.parse_fixed(text) for name, text in entry.items()}
            for entry in self.warm_up
        ]

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise ValueError(
                f"{name[:80]!r} has to be 1 to 64 letters, digits, '_', '.' or '-', "
                "the first one a letter or digit"
            )
        if name == INGRESS_NAME:
            raise ValueError(f"'{INGRESS_NAME}' is the name of the deployment in front of models")
        return name

    @field_validator("source")
    @classmethod
    def _usable_source(cls, source: str | list[RemoteFile]) -> str | list[RemoteFile]:
        if isinstance(source, list):
            names = Counter(file.file_name for file in source)
            if not names:
                raise ValueError("lists no file")
            for name, count in names.items():
                if count > 1:
                    raise ValueError(f"has {count} files named '{name}', one would replace another")
        elif source.startswith("builtin:"):
            if source.removeprefix("builtin:") not in BUILTIN_MODELS:
                known = ", ".join(f"'builtin:{name}'" for name in BUILTIN_MODELS)
                raise ValueError(f"{source!r} is not built in, known: {known}")
        elif "://" in source:
            _check_url(source)
        elif not source.strip() or "\0" in source:
            raise ValueError(f"{source!r} is not a path")
        return source

    @field_validator("shape")
    @classmethod
    def _readable_shape(cls, shape: str | dict[str, str]) -> str | dict[str, str]:
        _check(shape, dimensions.parse_shape_rule)
        return shape

    @field_validator("version_labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, int]) -> dict[str, int]:
        for label in labels:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", label):
                raise ValueError(
                    f"{label[:80]!r} has to be 1 to 64 letters, digits, '_', '.' or '-'"
                )
        return labels

    @field_validator("warm_up")
    @classmethod
    def _readable_warm_up(cls, entries: list[str | dict[str, str]]) -> list[str | dict[str, str]]:
        for entry in entries:
            _check(entry, dimensions.parse_fixed)
        return entries

    @field_validator("device")
    @classmethod
    def _named_device(cls, device: str) -> str:
        if not device.strip():
            raise ValueError("is empty, OpenVINO's devices are 'CPU', 'GPU' and the like")
        return device

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSettings":
        contradictions = "; ".join(self._contradictions())
        if contradictions:
            raise ValueError(contradictions)
        return self

    def rules(self) -> list[ShapeRule]:
        """The rules of all inputs that `shape` speaks of."""
        rules = self.shape_rules
        return list(rules.values()) if isinstance(rules, dict) else [rules]

    def _contradictions(self) -> Iterator[str]:
        batch_size = self.batch_size
        if isinstance(batch_size, int) and not any(
            isinstance(rule, str) or (rule and rule[0].accepts(batch_size)) for rule in self.rules()
        ):
            yield f"shape {self.shape!r} does not allow batch_size {batch_size}, give only one"
        if self.storage_options and not self.remote:
            yield "storage_options are for a source that is a URL such as 's3://bucket/dir'"
        if len(self.warm_up) > self.max_compiled_shapes:
            yield (
                f"warm_up has {len(self.warm_up)} shapes, "
                f"max_compiled_shapes keeps {self.max_compiled_shapes} of them"
            )
        for index, shapes in enumerate(self.warm_up_shapes):
            for complaint in self._never_asked_for(shapes):
                yield f"warm_up[{index}] {self.warm_up[index]!r} {complaint}"

    def _never_asked_for(self, warm_up: Shape | dict[str, Shape]) -> Iterator[str]:
        """Why no request can have these shapes."""
        rules = self.shape_rules
        shapes = list(warm_up.values()) if isinstance(warm_up, dict) else [warm_up]
        if not isinstance(rules, dict):
            if not all(dimensions.accepts(rules, shape) for shape in shapes):
                yield f"is outside shape '{dimensions.spell(rules)}'"
        elif isinstance(warm_up, tuple) and len(rules) > 1:
            yield f"names no input, shape has several ({', '.join(rules)})"
        else:
            by_name = dict.fromkeys(rules, warm_up) if isinstance(warm_up, tuple) else warm_up
            yield from _outside(rules, by_name)
        if self.batch_size != "auto" and all(shape[:1] != (self.batch_size,) for shape in shapes):
            yield f"is outside batch_size {self.batch_size}"


def _check_url(source: str) -> None:
    """Raise ValueError unless it is the URL of a store's directory, without repeating secrets."""
    scheme = source.partition("://")[0]
    if scheme in ("http", "https"):
        # Shown without what may be secret: a password stands before the @, a signature after the ?.
        raise ValueError(
            f"'{_without_secrets(source)}' has to be a list of files, each with its url and sha384"
        )
    if scheme not in STORES:
        raise ValueError(f"'{scheme}://' cannot be read, {meant(scheme, STORES)}")
    try:
        password = urlsplit(source).password
    except ValueError:
        raise ValueError(f"the URL after '{scheme}://' cannot be read") from None
    if password is not None or re.search(r"[?#]", source):
        raise ValueError(
            f"the URL after '{scheme}://' may have no password and no query: credentials belong in "
            "the environment, anything else in storage_options"
        )
    if re.search(r"::|[\s\x00-\x1f\x7f]", source) or source.endswith("://"):
        raise ValueError(f"{source!r} is not the URL of a directory")


def _without_secrets(url: str) -> str:
    head, _, tail = re.sub(r"[?#].*", "", url, flags=re.S).partition("://")
    authority, slash, path = tail.partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"


def _check(shape: str | dict[str, str], parse: Callable[[str], object]) -> None:
    """Raise ValueError if the shape, or an input's, cannot be read."""
    if isinstance(shape, str):
        parse(shape)
    elif not shape:
        raise ValueError("names no input")
    else:
        for name, text in shape.items():
            _check_input(name, text, parse)


def _check_input(name: str, text: str, parse: Callable[[str], object]) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"input '{name}': {error}") from None


def _outside(rules: dict[str, ShapeRule], shapes: dict[str, Shape]) -> Iterator[str]:
    for name, rule in rules.items():
        if name in shapes and not dimensions.accepts(rule, shapes[name]):
            yield f"is outside shape '{dimensions.spell(rule)}' of input '{name}'"
        elif name not in shapes and (rule == "auto" or any(dim.fixed is None for dim in rule)):
            yield f"leaves out input '{name}'"
