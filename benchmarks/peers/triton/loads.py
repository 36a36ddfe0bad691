"""The workloads of the comparison with Triton: those of the main benchmark, and a few more."""

from dataclasses import replace
from typing import Final

from benchmarks.shapes import Shape
from benchmarks.special import ARRIVING, FEW, MANY
from benchmarks.workloads import NEW, ONE_SHAPE, TINY, WORKLOADS, Workload


def _named(name: str) -> Workload:
    return next(workload for workload in WORKLOADS if workload.name == name)


ONE_SHAPE_LOADS: Final = tuple(
    _named(f"one shape, {clients}") for clients in ("1 client", "16 clients", "64 clients")
)
TWO_SHAPES: Final = _named("two shapes alternating, 16 clients")
TINY_64: Final = _named("tiny model, 64 clients")
TINY_1: Final = replace(TINY_64, name="tiny model, 1 client", clients=1)
NEW_SHAPES: Final = replace(_named("every request a new shape, 16 clients"), turn_s=2)

FIRST_S: Final = 6
_ZIPF: Final = _named("Zipf over 50 shapes, 16 clients")
ZIPF_FIRST: Final = replace(_ZIPF, name=f"Zipf over 50 shapes, first {FIRST_S} s", turn_s=FIRST_S)
ZIPF_LATER: Final = replace(_ZIPF, name="Zipf over 50 shapes, later")

KNOWN_ALONE: Final = replace(ONE_SHAPE, name="known shape, 4 clients, alone", clients=4)
KNOWN_BESIDE_NEW: Final = replace(KNOWN_ALONE, name="known shape, 4 clients, beside new shapes")
KNOWN_BESIDE_PROMOTED: Final = replace(
    KNOWN_ALONE, name="known shape, 4 clients, beside promotions"
)
REPEATED: Final = 10
"""The requests of each shape, enough for a promotion with the default of `promote_after`."""
PROMOTED: Final = replace(
    ARRIVING,
    name="shapes that are promoted",
    shapes=NEW[-2_000:],
    order=tuple(index for index in range(2_000) for _ in range(REPEATED)),
)
PROMOTION_SETTINGS: Final = {"max_compiled_shapes": 256, "compiles_per_minute": 600}
"""With the default of 16 compiled shapes the cache is soon full, and few shapes are promoted."""

MEMORY_FEW: Final = replace(ONE_SHAPE, name=f"memory after {FEW} shapes")
MEMORY_MANY: Final = replace(ONE_SHAPE, name=f"memory after {MANY:,} shapes")

LOADS: Final = (
    *ONE_SHAPE_LOADS,
    TWO_SHAPES,
    TINY_1,
    TINY_64,
    ZIPF_FIRST,
    ZIPF_LATER,
    NEW_SHAPES,
    KNOWN_ALONE,
    KNOWN_BESIDE_NEW,
    KNOWN_BESIDE_PROMOTED,
    MEMORY_FEW,
    MEMORY_MANY,
)

CHECKED: Final[dict[str, tuple[Shape, ...]]] = {
    ONE_SHAPE.model: TWO_SHAPES.shapes,
    TINY: TINY_64.shapes,
}
"""The shapes of the requests that check the answers before a measurement. Workloads of new shapes
do not contain them."""
