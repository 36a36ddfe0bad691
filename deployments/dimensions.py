"""Shapes in the settings: `auto`, `(1,3,300,300)`, `(-1,3,200:500,200:500)`.

The spelling is OpenVINO Model Server's, so that its users can keep their settings. In addition, a
dimension may be 0, and `()` is the shape of a scalar.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

LARGEST = 2**31 - 1
"""The largest size of a dimension in the settings, as in OpenVINO Model Server."""

_NUMBER = re.compile(r"[0-9]+", re.ASCII)


@dataclass(frozen=True)
class Dim:
    """The sizes that one dimension may have, both ends included."""

    minimum: int
    maximum: int | None
    """None for no upper end."""

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise ValueError(f"a dimension cannot have {self.minimum} elements")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"no size is at least {self.minimum} and at most {self.maximum}")

    @property
    def fixed(self) -> int | None:
        """The only accepted size, None if there are several."""
        return self.minimum if self.minimum == self.maximum else None

    def accepts(self, n: int) -> bool:
        return self.minimum <= n and (self.maximum is None or n <= self.maximum)

    def nearest(self, n: int) -> int:
        """The accepted size that is nearest to `n`."""
        return max(self.minimum, n if self.maximum is None else min(n, self.maximum))

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        if self.maximum is None:
            return f"{self.minimum}:" if self.minimum else "-1"
        return f"{self.minimum}:{self.maximum}"


ShapeRule: TypeAlias = Literal["auto"] | tuple[Dim, ...]
"""The shapes that an input takes: any that the model can be reshaped to, or these dimensions."""


def parse_shape_rule(text: str) -> ShapeRule:
    """Reads `auto` (in any case) or dimensions; ValueError says what is wrong with the text."""
    return "auto" if text.strip().lower() == "auto" else parse_dims(text)


def parse_dims(text: str) -> tuple[Dim, ...]:
    """Reads `(1,3,-1,200:500)`; ValueError says what is wrong with the text."""
    inside = text.strip()
    if not (inside.startswith("(") and inside.endswith(")")):
        raise ValueError(f"{_quoted(text)} is not a shape: write 'auto' or '(1,3,300,300)'")
    parts = [part.strip() for part in inside[1:-1].split(",")]
    if parts[-1] == "":  # `()` and, as in Python, `(10,)`
        parts.pop()
    return tuple(_parse_dim(part, text) for part in parts)


def parse_fixed(text: str) -> tuple[int, ...]:
    """Reads a shape of numbers only; ValueError says what is wrong with the text."""
    sizes = []
    for dim in parse_dims(text):
        if dim.fixed is None:
            raise ValueError(
                f"{_quoted(text)} leaves a dimension open ({dim}), it must be one shape"
            )
        sizes.append(dim.fixed)
    return tuple(sizes)


def accepts(rule: ShapeRule, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape follows the rule."""
    if isinstance(rule, str):
        return True
    return len(rule) == len(shape) and all(
        dim.accepts(n) for dim, n in zip(rule, shape, strict=True)
    )


def spell(rule: ShapeRule) -> str:
    """Spells a rule as `parse_shape_rule` reads it."""
    return rule if isinstance(rule, str) else "(" + ",".join(map(str, rule)) + ")"


def check(shape: str | dict[str, str], parse: Callable[[str], object]) -> None:
    """Raises ValueError if the shape, or that of an input, is invalid."""
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


def outside(rules: Mapping[str, ShapeRule], shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """The reasons why the rules do not accept these shapes, both by input."""
    for name, rule in rules.items():
        if name in shapes and not accepts(rule, shapes[name]):
            yield f"is outside shape '{spell(rule)}' of input '{name}'"
        elif name not in shapes and (rule == "auto" or any(dim.fixed is None for dim in rule)):
            yield f"leaves out input '{name}'"


def _parse_dim(part: str, text: str) -> Dim:
    if part == "-1":
        return Dim(0, None)
    ends = [_parse_number(end.strip(), part, text) for end in part.split(":")]
    if len(ends) > 2:
        raise ValueError(f"{_quoted(text)} has a range of more than two numbers: {_quoted(part)}")
    if len(ends) == 2 and ends[1] <= ends[0]:
        raise ValueError(f"{_quoted(text)} has the range {part}, its end must be above its start")
    return Dim(ends[0], ends[-1])


def _parse_number(digits: str, part: str, text: str) -> int:
    if not part:
        raise ValueError(f"{_quoted(text)} has an empty dimension")
    if not _NUMBER.fullmatch(digits):
        raise ValueError(
            f"{_quoted(text)} has the dimension {_quoted(part)}, "
            "which is not a number, -1 or min:max"
        )
    # Checks the length first, because Python refuses to convert thousands of digits.
    if len(digits.lstrip("0")) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise ValueError(f"{_quoted(text)} has a dimension above {LARGEST}: {_quoted(part)}")
    return int(digits)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
