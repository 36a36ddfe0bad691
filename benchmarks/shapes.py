"""The shapes of the many-shape workloads and their order, the same for every arm."""

import random
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int, ...]

LOWEST: Final = 224
HIGHEST: Final = 400


def new_shapes() -> list[Shape]:
    """Every [1,3,H,W] with H and W from 224 to 400, each once, in a fixed random order."""
    sizes = range(LOWEST, HIGHEST + 1)
    shapes: list[Shape] = [(1, 3, height, width) for height in sizes for width in sizes]
    random.Random(1).shuffle(shapes)
    return shapes


def zipf_order(shapes: int, draws: int, exponent: float = 1.1) -> list[int]:
    """Random indices below `shapes`; the k-th is k^-exponent times as frequent as the first."""
    weights = [rank**-exponent for rank in range(1, shapes + 1)]
    return random.Random(2).choices(range(shapes), weights, k=draws)
