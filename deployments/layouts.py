"""Layouts, which say what each dimension of a tensor is: `NHWC`, `N...`, `HWN:NHW`.

The spelling is OpenVINO Model Server's. The batch is the dimension N; where there is no layout it
is the first one.
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
    """The names of the dimensions; `?` has no name, `...` stands for any number of dimensions."""

    names: tuple[str, ...]

    def fits(self, rank: int) -> bool:
        return rank >= len(self.names) - 1 if REST in self.names else rank == len(self.names)

    def axis(self, name: str, rank: int) -> int | None:
        """Where a dimension lies in a tensor of that rank, None where the layout has it not."""
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
    """Clients send or get `target` where the model has `source`."""

    target: Layout
    source: Layout

    @property
    def transposes(self) -> bool:
        return self.target != self.source


def parse_layout_rule(text: str) -> LayoutRule:
    """Read `NHWC:NCHW`, target before source, or `NHWC` for both.

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
    """The layout that OpenVINO writes as `[N,C,H,W]`, None for the one that says nothing."""
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
        raise ValueError(f"{_quoted(text)} has to name every dimension, as it moves some")
    if sorted(rule.target.names) != sorted(rule.source.names):
        raise ValueError(
            f"{_quoted(text)} has {rule.target} before the colon and {rule.source} behind it, "
            "which are not the same dimensions"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
