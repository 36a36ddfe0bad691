"""The settings of one served model, an entry of `models` in serve_config.yaml."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from deployments import dimensions, timing
from deployments.dimensions import Dim, ShapeRule
from deployments.settings import preprocessing as preprocessing_settings
from deployments.settings.batching import Batching
from deployments.settings.in_place import CHANGED_IN_PLACE
from deployments.settings.preprocessing import Preprocessing
from deployments.settings.source import (
    AtLeastOne,
    Group,
    RemoteFile,
    StorageOption,
    check_source,
)
from deployments.settings.version_policy import VersionPolicy, parse_version_policy

INGRESS_NAME = "Ingress"
"""The name of the deployment in front of the models; a model's deployment has the model's name."""

Shape = tuple[int, ...]


class ModelSettings(Group):
    """One served model."""

    name: str = Field(
        description="The name that clients use in URLs and requests. It also names the model's "
        "deployment in Ray and its directory in the model repository.",
    )
    source: str | list[RemoteFile] = Field(
        description="Where the model comes from: a directory `<dir>/<version>/<files>`, a single "
        "model file (either one absolute or relative to the model repository), `builtin:spots`, "
        "the URL of such a directory in a store (`s3://bucket/dir`, `gs://bucket/dir`, or another "
        "that fsspec knows), or a list of files to download, which become version 1. The server "
        "records where a download or a copy came from, and serves only files of this source: it "
        "replaces those of another source, url or sha384. It keeps files without a record if "
        "their sha384 is that of the download, else it renames them to `<version>.aside-1`.",
    )
    storage_options: dict[str, StorageOption] = Field(
        default_factory=dict,
        description="Options for fsspec's filesystem for the URL in `source`, such as "
        "`endpoint_url` or `anon: true`. Do not put secrets here: every reader of this file and "
        "of Ray's dashboard sees them. The stores' clients find their secrets in the environment.",
    )
    shape: str | dict[str, str] = Field(
        default="auto",
        description="Shapes that requests may have. `auto`: any that the model can be reshaped "
        "to; `(1,3,300,300)`: this one; `-1` and `200:500` leave a dimension open. A mapping "
        "gives each input its own; inputs that it does not list keep the model's shape. Other "
        "requests are answered with 400, without a compilation.",
    )
    batch_size: Literal["auto"] | AtLeastOne = Field(
        default="auto",
        description="Size of the batch dimension of every input: the first one, or N of its "
        "`layout`. `auto` takes what `shape` allows; with a number, requests of any other size "
        "are refused.",
    )
    layout: preprocessing_settings.LayoutSetting = Field(default_factory=dict)
    precision: preprocessing_settings.PrecisionSetting = Field(default_factory=dict)
    color_format: preprocessing_settings.ColorFormatSetting = Field(default_factory=dict)
    resize: preprocessing_settings.ResizeSetting = "none"
    mean: preprocessing_settings.MeanSetting = Field(default_factory=dict)
    scale: preprocessing_settings.ScaleSetting = Field(default_factory=dict)
    reshape: Literal["background", "blocking"] = Field(
        default="background",
        description="How the server answers a new shape. `background`: at once and a little "
        "slower, by a compilation for all shapes, until the shape's own is ready; `blocking`: the "
        "first requests wait for the shape's own compilation. Models that cannot be compiled for "
        "all shapes always block.",
    )
    max_compiled_shapes: AtLeastOne = Field(
        default=16,
        description="Maximum number of compiled shapes per replica. Each one costs memory. "
        "Beyond it the least recently used shape is evicted, and compiled again when it comes "
        "back.",
    )
    promote_after: AtLeastOne = Field(
        default=8,
        description="Requests that a shape must bring within a minute before it gets its own "
        "compilation in `background` mode. A lower value brings frequent shapes to full speed "
        "sooner, a higher one saves compilations for shapes that do not come back.",
    )
    compiles_per_minute: AtLeastOne = Field(
        default=60,
        description="Compilations that may start in the background within a minute. It bounds "
        "the processor time that a flood of new shapes takes from the known ones.",
    )
    kernel_cache_mb: AtLeastOne = Field(
        default=384,
        description="Megabytes per replica for the kernels that OpenVINO builds for each shape "
        "and keeps for its return. The server measures how many shapes that holds when it loads "
        "the model, and reports it in the statistics (`kernel_cache`). Beyond it the least "
        "recently used shape is evicted, and takes longer when it comes back. For the CPU, in "
        "`background` mode; `CPU_RUNTIME_CACHE_CAPACITY` in `plugin_config` overrides it.",
    )
    compile_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds after which a compilation counts as hung. The server cannot stop "
        "it and cannot begin another, so the replica is replaced.",
    )
    plugin_config: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="OpenVINO properties for compiling, such as `INFERENCE_PRECISION_HINT: f32` "
        "for results that do not depend on the processor's bf16 support. A property that the "
        "device does not know makes the model unavailable.",
    )
    device: str = Field(
        default="CPU",
        description="OpenVINO device that runs the model. A device that the machine lacks makes "
        "the model unavailable.",
    )
    warm_up: list[str | dict[str, str]] = Field(
        default_factory=list,
        description="Shapes that are compiled before the model reports ready, so that even "
        "their first request is fast: `(1,3,300,300)`, or a mapping for several inputs. Each one "
        "makes the start longer.",
    )
    model_version_policy: str | dict[str, Any] = Field(
        default={"latest": 1},
        description="Versions that are served: `latest: 2`, `all` or `specific: [1, 3]`, or "
        "OpenVINO Model Server's spelling, `latest: {num_versions: 2}` and the like. Requests "
        "that name no version get the highest. If one of the latest cannot be loaded, the next "
        "lower version serves in its place until it can. Each version takes memory.",
    )
    poll_s: float = Field(
        default=1.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds between looks at the source for new, changed and removed versions; "
        "at least 30 for a source that is not on the machine. 0: the server looks only on `POST "
        "/v1/config/reload`.",
    )
    remember_shapes: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="How many of the most-requested shapes the server remembers in `cache_dir`, "
        "and compiles like those of `warm_up` when it loads the model the next time.",
    )
    unload_after_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which the model is unloaded to free its "
        "memory; the next request waits until it is loaded again. 0: never.",
    )
    version_labels: dict[str, AtLeastOne] = Field(
        default_factory=dict,
        description="Names for versions, such as `stable: 1`, that clients of TensorFlow "
        "Serving's API may use.",
    )
    batching: Batching = Field(
        default_factory=Batching, description="How requests of one shape are run together."
    )

    @property
    def version_policy(self) -> VersionPolicy:
        """The parsed `model_version_policy`."""
        return parse_version_policy(self.model_version_policy)

    @property
    def remote(self) -> bool:
        """Whether `source` is a URL: a directory of versions in a store."""
        return isinstance(self.source, str) and "://" in self.source

    @property
    def is_local(self) -> bool:
        """Whether the source is on this machine, where a look at it is cheap."""
        return isinstance(self.source, str) and not self.remote

    @property
    def look_every_s(self) -> float:
        """Seconds from one look at the source to the next; 0 for never."""
        if self.is_local or not self.poll_s:
            return self.poll_s
        return max(self.poll_s, timing.REMOTE_POLL_S)

    def loaded_by(self) -> str:
        """The settings that a loaded version depends on; the others can change while it serves."""
        alone = self.batching.max_rows == 1
        rest = self.model_dump_json(exclude=set(CHANGED_IN_PLACE))
        return f"{self.batching.stacking} {alone} {rest}"

    @property
    def shape_rules(self) -> ShapeRule | dict[str, ShapeRule]:
        """The parsed `shape`."""
        if isinstance(self.shape, str):
            return dimensions.parse_shape_rule(self.shape)
        return {name: dimensions.parse_shape_rule(text) for name, text in self.shape.items()}

    @property
    def preprocessing(self) -> Preprocessing:
        """The parsed `layout`, `precision`, `color_format`, `resize`, `mean` and `scale`."""
        return preprocessing_settings.read(
            self.layout, self.precision, self.color_format, self.resize, self.mean, self.scale
        )

    @property
    def warm_up_shapes(self) -> list[Shape | dict[str, Shape]]:
        """The parsed `warm_up`."""
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
                f"{name[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-', "
                "the first one a letter or digit"
            )
        if name == INGRESS_NAME:
            raise ValueError(f"'{INGRESS_NAME}' is the name of the deployment in front of models")
        return name

    @field_validator("source")
    @classmethod
    def _usable_source(cls, source: str | list[RemoteFile]) -> str | list[RemoteFile]:
        check_source(source)
        return source

    @field_validator("shape")
    @classmethod
    def _readable_shape(cls, shape: str | dict[str, str]) -> str | dict[str, str]:
        dimensions.check(shape, dimensions.parse_shape_rule)
        return shape

    @field_validator("poll_s", "unload_after_s")
    @classmethod
    def _seldom(cls, seconds: float) -> float:
        if 0 < seconds < timing.SHORTEST_POLL_S:
            raise ValueError(f"must be 0 or at least {timing.SHORTEST_POLL_S}, not {seconds:g}")
        return seconds

    @field_validator("model_version_policy")
    @classmethod
    def _readable_policy(cls, written: str | dict[str, Any]) -> str | dict[str, Any]:
        parse_version_policy(written)
        return written

    @field_validator("version_labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, int]) -> dict[str, int]:
        for label in labels:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", label):
                raise ValueError(f"{label[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
        return labels

    @field_validator("warm_up")
    @classmethod
    def _readable_warm_up(cls, entries: list[str | dict[str, str]]) -> list[str | dict[str, str]]:
        for entry in entries:
            dimensions.check(entry, dimensions.parse_fixed)
        return entries

    @field_validator("device")
    @classmethod
    def _named_device(cls, device: str) -> str:
        if not device.strip():
            raise ValueError("is empty, name one of OpenVINO's devices such as 'CPU' or 'GPU'")
        return device

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSettings":
        contradictions = "; ".join(self._contradictions())
        if contradictions:
            raise ValueError(contradictions)
        return self

    def rules(self) -> list[tuple[str | None, ShapeRule]]:
        """The inputs that `shape` names with their rules; None stands for every input."""
        rules = self.shape_rules
        return list(rules.items()) if isinstance(rules, dict) else [(None, rules)]

    def _contradictions(self) -> Iterator[str]:
        batch_size = self.batch_size
        if isinstance(batch_size, int) and not any(
            isinstance(rule, str) or (rule and self._batch_is(batch_size, name, rule))
            for name, rule in self.rules()
        ):
            yield f"shape {self.shape!r} does not allow batch_size {batch_size}, set only one"
        yield from self._contradicting_layouts()
        if self.storage_options and not self.remote:
            yield "has storage_options, which need a source that is a URL such as 's3://bucket/dir'"
        if len(self.warm_up) > self.max_compiled_shapes:
            yield (
                f"warm_up has {len(self.warm_up)} shapes, "
                f"max_compiled_shapes keeps {self.max_compiled_shapes} of them"
            )
        for index, shapes in enumerate(self.warm_up_shapes):
            for complaint in self._never_asked_for(shapes):
                yield f"warm_up[{index}] {self.warm_up[index]!r} {complaint}"

    def _contradicting_layouts(self) -> Iterator[str]:
        only = self.preprocessing.layout_of(None)
        if only and "N" not in only.target.names and self.batch_size != "auto":
            yield f"layout '{self.layout}' has no batch N for batch_size {self.batch_size}"
        for name, rule in self.rules():
            layout = self.preprocessing.layout_of(name)
            if layout and not isinstance(rule, str) and not layout.target.fits(len(rule)):
                spelt = dimensions.spell(rule)
                yield f"shape '{spelt}' does not have the dimensions of layout {layout.target}"

    def _batch_is(self, size: int, name: str | None, dims: Sequence[Dim | int]) -> bool:
        """Whether the settings allow a batch of this size."""
        axis = self.preprocessing.batch_axis(name, len(dims))
        if axis is None:
            return True
        dim = dims[axis]
        return dim == size if isinstance(dim, int) else dim.accepts(size)

    def _never_asked_for(self, warm_up: Shape | dict[str, Shape]) -> Iterator[str]:
        """The reasons why no request can have these shapes."""
        rules = self.shape_rules
        shapes = list(warm_up.values()) if isinstance(warm_up, dict) else [warm_up]
        if not isinstance(rules, dict):
            if not all(dimensions.accepts(rules, shape) for shape in shapes):
                yield f"is outside shape '{dimensions.spell(rules)}'"
        elif isinstance(warm_up, tuple) and len(rules) > 1:
            yield f"names no input, shape names several ({', '.join(rules)})"
        else:
            by_name = dict.fromkeys(rules, warm_up) if isinstance(warm_up, tuple) else warm_up
            yield from dimensions.outside(rules, by_name)
        named = warm_up.items() if isinstance(warm_up, dict) else [(None, warm_up)]
        size = self.batch_size
        if size != "auto" and not any(s and self._batch_is(size, name, s) for name, s in named):
            yield f"is outside batch_size {size}"
