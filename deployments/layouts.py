"""Layouts, which name each dimension of a tensor: `NHWC`, `N...`, `HWN:NHW`.

The spelling is OpenVINO Model Server's. The batch is the dimension N; without a layout it is the
first one.
"""

import re
from dataclasses import dataclass
from typing import Final

LETTERS: Final = "NCHWD"
REST: Final = "..."
UNNAMED: Final = "?"

_NAME: Final = re.compile(r"\.\.\.|.")


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of the dimensions: `?` is an unnamed one, `...` any number of dimensions."""

    names: tuple[str, ...]

    def fits(self, rank: int) -> bool:
        return rank >= len(self.names) - 1 if REST in self.names else rank == len(self.names)

    def axis(self, name: str, rank: int) -> int | None:
        """The axis of a dimension in a tensor of that rank; None if the layout lacks it."""
        if name not in self.names or not self.fits(rank):
            return None
        place = self.names.index(name)
        if REST in self.names[:place]:
            return rank - len(self.names) + place
        return place

    def __str__(self) -> str:
        if all(len(name) == 1 or name == REST for name in self.names):
            return "".join(self.names)
        return f"[{','.join(self.names)}]"


@dataclass(frozen=True, slots=True)
class LayoutRule:
    """A layout setting: clients send or get `target`, the model has `source`."""

    target: Layout
    source: Layout

    @property
    def transposes(self) -> bool:
        return self.target != self.source


def parse_layout_rule(text: str) -> LayoutRule:
    """Reads `NHWC:NCHW`, target before source, or `NHWC` for both.

    ValueError says what is wrong with the text.
    """
    written = "".join(text.split()).upper()
    parts = [_parse(part, text) for part in written.split(":")]
    if len(parts) > 2:
        raise ValueError(f"{_quoted(text)} has more than a target and a source layout")
    rule = LayoutRule(parts[0], parts[-1])
    if rule.transposes:
        _check_permutation(rule, text)
    return rule


def named(text: str) -> Layout | None:
    """Reads OpenVINO's notation `[N,C,H,W]`; None if it names no dimension."""
    layout = Layout(tuple(text.strip("[]").split(",")))
    return None if set(layout.names) <= {REST, UNNAMED, ""} else layout


def batch_axis(layout: Layout | None, rank: int) -> int | None:
    if layout is not None:
        return layout.axis("N", rank)
    return 0 if rank else None


def _parse(part: str, text: str) -> Layout:
    names = tuple(_NAME.findall(part))
    if not names:
        raise ValueError(f"{_quoted(text)} has an empty layout")
    for name in names:
        if name not in (*LETTERS, UNNAMED, REST):
            raise ValueError(
                f"{_quoted(text)} has the dimension {name!r}, known are "
                f"{', '.join(LETTERS)}, '{UNNAMED}' and '{REST}'"
            )
        if name != UNNAMED and names.count(name) > 1:
            raise ValueError(f"{_quoted(text)} has {name} twice in one layout")
    return Layout(names)


def _check_permutation(rule: LayoutRule, text: str) -> None:
    if {UNNAMED, REST} & {*rule.target.names, *rule.source.names}:
        raise ValueError(f"{_quoted(text)} must name every dimension, because it transposes")
    if sorted(rule.target.names) != sorted(rule.source.names):
        raise ValueError(
            f"{_quoted(text)} has {rule.target} before the colon and {rule.source} after it, "
            "which do not have the same dimensions"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
