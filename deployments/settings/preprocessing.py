"""The settings of the graph's preprocessing: layout, precision, colours, resize, mean and scale.

They are read without OpenVINO, so that they can be checked anywhere. The spelling is OpenVINO
Model Server's: `uint8:fp32` and `BGR:RGB` name what clients send before the colon and what the
model takes after it.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field

from deployments.datatypes import DATATYPES
from deployments.layouts import LayoutRule, batch_axis, parse_layout_rule

PRECISIONS: Final = {name.lower(): name for name, kind in DATATYPES.items() if kind.converts}
"""The datatypes that the graph converts, by OpenVINO Model Server's names."""

CHANNELS: Final = {"RGB": 3, "BGR": 3, "GRAY": 1}

Algorithm: TypeAlias = Literal["none", "linear", "cubic", "nearest"]
Numbers: TypeAlias = float | tuple[float, ...]
"""One number for all channels, or one for each."""

T = TypeVar("T")
U = TypeVar("U")
PerName: TypeAlias = T | Mapping[str, T]
"""A value for the only input, or values by name of inputs and, in some settings, of outputs."""


@dataclass(frozen=True, slots=True)
class Precision:
    """A conversion: clients send or get `target`, the model has `source` (None: its own type)."""

    target: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ColorFormat:
    """A colour conversion: clients send `target`, the model takes `source`; keys of CHANNELS."""

    target: str
    source: str


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The parsed preprocessing settings; an empty mapping requests nothing."""

    layout: PerName[LayoutRule] = field(default_factory=dict)
    precision: PerName[Precision] = field(default_factory=dict)
    color_format: PerName[ColorFormat] = field(default_factory=dict)
    resize: PerName[Algorithm] = "none"
    mean: PerName[Numbers] = field(default_factory=dict)
    scale: PerName[Numbers] = field(default_factory=dict)

    def layout_of(self, name: str | None) -> LayoutRule | None:
        """The layout setting of an input; without a name, of the only input."""
        if isinstance(self.layout, LayoutRule):
            return self.layout
        return self.layout.get(name) if name else None

    def batch_axis(self, name: str | None, rank: int) -> int | None:
        """The batch axis of an input; None without a batch, or where the settings do not say."""
        if name is None and isinstance(self.layout, Mapping) and self.layout:
            return None
        rule = self.layout_of(name)
        return batch_axis(rule.target if rule else None, rank)


def read(
    layout: PerName[str],
    precision: PerName[str],
    color_format: PerName[str],
    resize: PerName[Algorithm],
    mean: PerName["_Numbers"],
    scale: PerName["_Numbers"],
) -> Preprocessing:
    """Parses the settings; ValueError names the invalid value."""
    return Preprocessing(
        layout=each(parse_layout_rule, layout),
        precision=each(parse_precision, precision),
        color_format=each(parse_color_format, color_format),
        resize=resize,
        mean=each(parse_mean, mean),
        scale=each(parse_scale, scale),
    )


def each(parse: Callable[[T], U], setting: PerName[T]) -> PerName[U]:
    """Parses a setting for each name; ValueError names the input or output with an invalid one."""
    if not isinstance(setting, Mapping):
        return parse(setting)
    return {name: _parsed_for(parse, name, value) for name, value in setting.items()}


def _parsed_for(parse: Callable[[T], U], name: str, value: T) -> U:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from None


def parse_precision(text: str) -> Precision:
    """Reads `uint8` or `uint8:fp32`, in any case; ValueError says what is wrong with the text."""
    parts = [part.strip().lower() for part in text.split(":")]
    for part in parts:
        if part not in PRECISIONS:
            raise ValueError(f"{text[:80]!r} is not a precision, known: {', '.join(PRECISIONS)}")
    if len(parts) > 2:
        raise ValueError(f"{text[:80]!r} has more than a target and a source precision")
    return Precision(PRECISIONS[parts[0]], PRECISIONS[parts[1]] if len(parts) > 1 else None)


def parse_color_format(text: str) -> ColorFormat:
    """Reads `BGR:RGB`, in any case; ValueError says what is wrong with the text."""
    target, colon, source = (part.strip() for part in text.upper().partition(":"))
    if not colon:
        raise ValueError(f"{text[:80]!r} must be target and source, such as 'BGR:RGB'")
    for part in (target, source):
        if part not in CHANNELS:
            raise ValueError(
                f"{text[:80]!r} has the colour format {part!r}, known: {', '.join(CHANNELS)}"
            )
    if CHANNELS[target] < CHANNELS[source]:
        raise ValueError(f"{text[:80]!r}: {target} cannot be converted to {source}")
    return ColorFormat(target, source)


def parse_mean(value: Any) -> Numbers:
    """Reads a number, a list, or either as text: `58.4`, `[58.4,57.1,57.4]`, `(58.4,57.1,57.4)`.

    ValueError says what is wrong with it.
    """
    if isinstance(value, str):
        return _parse_numbers(value)
    if isinstance(value, list):
        return _listed([_checked(number) for number in value])
    return _checked(value)


def parse_scale(value: Any) -> Numbers:
    """Reads what `parse_mean` reads, except 0."""
    numbers = parse_mean(value)
    for number in numbers if isinstance(numbers, tuple) else (numbers,):
        if _as_float32(number) == 0:
            raise ValueError(f"{value!r} has the scale {number:g}, the graph divides by the scale")
    return numbers


def _parse_numbers(text: str) -> Numbers:
    written = text.strip()
    if written[:1] + written[-1:] not in ("[]", "()"):
        return _parse_number(written, text)
    inside = written[1:-1].strip()
    return _listed([_parse_number(part, text) for part in inside.split(",")] if inside else [])


def _parse_number(part: str, text: str) -> float:
    try:
        return _checked(float(part))
    except ValueError:
        raise ValueError(
            f"{text[:80]!r} has {part.strip()[:40]!r}, which is not a number that fits into f32"
        ) from None


def _listed(numbers: list[float]) -> tuple[float, ...]:
    if not numbers:
        raise ValueError("lists no number")
    return tuple(numbers)


def _checked(number: float) -> float:
    if not math.isfinite(_as_float32(number)):
        raise ValueError(f"{number} is not a number that fits into f32")
    return float(number)


def _as_float32(number: float) -> float:
    """The number rounded to f32, in which the graph computes."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.inf


def _readable(parse: Callable[[Any], object]) -> AfterValidator:
    def check(setting: T) -> T:
        each(parse, setting)
        return setting

    return AfterValidator(check)


LayoutSetting = Annotated[
    str | dict[str, str],
    _readable(parse_layout_rule),
    Field(
        description="Meaning of the dimensions of inputs and outputs. `NHWC:NCHW`: clients send "
        "NHWC, the model has NCHW, and the graph transposes; `NHWC`, `CN`, `N...` or `N?HWC`: the "
        "graph transposes nothing. N is the batch; without N there is none. A mapping gives each "
        "input and output its own, `{image: 'NHWC:NCHW', scores: 'CN:NC'}`. Those that it does not "
        "list have the layout of the model's file. `shape`, `batch_size` and `warm_up` are in the "
        "clients' layout."
    ),
]
PrecisionSetting = Annotated[
    str | dict[str, str],
    _readable(parse_precision),
    Field(
        description="Datatype that clients send and the graph converts: `uint8`, or `uint8:fp32` "
        f"with the model's own datatype. Known: {', '.join(PRECISIONS)}. A mapping gives each "
        "input and output its own."
    ),
]
_Numbers: TypeAlias = float | list[float] | str
MeanSetting = Annotated[
    _Numbers | dict[str, _Numbers],
    _readable(parse_mean),
    Field(
        description="What the graph subtracts from an input: a number, or one for each channel, "
        "`[123.675,116.28,103.53]`. The graph converts to f32, converts the colours, resizes, "
        "subtracts the mean, divides by the scale, and transposes last. So means and scales are in "
        "the order of the model's channels. A mapping gives each input its own."
    ),
]
ScaleSetting = Annotated[
    _Numbers | dict[str, _Numbers],
    _readable(parse_scale),
    Field(description="What the graph divides an input by, after `mean`; same syntax as `mean`."),
]
ColorFormatSetting = Annotated[
    str | dict[str, str],
    _readable(parse_color_format),
    Field(
        description="`BGR:RGB`: clients send BGR, the model takes RGB, and the graph converts. "
        f"Known: {', '.join(CHANNELS)}; GRAY converts to nothing else. JPEG and PNG pictures are "
        "decoded to the clients' format. A mapping gives each input its own."
    ),
]
ResizeSetting = Annotated[
    Algorithm | dict[str, Algorithm],
    Field(
        description="How the graph scales an input to the height and width that the model's file "
        "fixes: `linear`, `cubic` or `nearest`. Clients then send pixels of any size. `none`: the "
        "model runs at the size that the client sends. A mapping gives each input its own."
    ),
]
