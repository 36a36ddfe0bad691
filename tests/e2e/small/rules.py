"""Every form of `shape` and `batch_size`, with both values of `reshape`, and accepted shapes.

Weights and inputs are integers, whose sums are exact in any order: the dynamic compilation and a
static one may add in different orders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov

from tests.e2e.small.answers import Request
from tests.model import models
from tests.model.loading import tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """A model and its settings; `reported` are the dimensions in the model's metadata.

    A shape is that of the only input `x`, or a mapping by input. `refused` has shapes with words of
    the error's text.
    """

    model: ov.Model
    settings: dict[str, Any]
    reported: dict[str, list[int]]
    accepted: list[Shape | dict[str, Shape]]
    refused: list[tuple[Shape | dict[str, Shape], list[str]]] = field(default_factory=list)


def beyond(shape: str, axis: int, size: int, takes: str) -> list[str]:
    """The words of an error because of one dimension."""
    return [f"'x' has shape {shape}, dimension {axis} is {size}, the model takes {takes}"]


BLOCKING: dict[str, Any] = {"reshape": "blocking"}
# Without these settings, a measurement decides whether one row has its own key.
SIDE_BY_SIDE: dict[str, Any] = {"batching": {"stacking": "never"}}
TOGETHER: dict[str, Any] = {"batching": {"stacking": "always"}}
PICTURES: list[Shape | dict[str, Shape]] = [(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 5, 13), (1, 3, 3, 3)]
ANY_PICTURE = {"x": [-1, 3, -1, -1]}
NO_PICTURE: list[tuple[Shape | dict[str, Shape], list[str]]] = [
    ((1, 4, 8, 8), beyond("[1,4,8,8]", 1, 4, "[-1,3,-1,-1]")),
    ((3, 8, 8), ["'x' has 3 dimensions [3,8,8], the model takes 4 [-1,3,-1,-1]"]),
]
BOUNDED = (-1, ov.Dimension(2, 8), 4)
ODD: list[tuple[Shape | dict[str, Shape], list[str]]] = [
    ((1, 3, 7, 8), ["cannot run at", "[1,3,7,8]", "refuses it at node 'SpaceToDepth_"]),
    ((2, 3, 8, 9), ["cannot run at", "[-1,3,8,9]", "refuses it at node 'SpaceToDepth_"]),
]

RULES: dict[str, Rule] = {
    "auto": Rule(
        models.convolution(),
        {"promote_after": 2, **SIDE_BY_SIDE},
        ANY_PICTURE,
        PICTURES,
        NO_PICTURE,
    ),
    "auto-blocking": Rule(
        models.convolution(), {**BLOCKING, **TOGETHER}, ANY_PICTURE, PICTURES, NO_PICTURE
    ),
    "one-shape": Rule(
        models.convolution(),
        {"shape": "(1,3,300,300)"},
        {"x": [1, 3, 300, 300]},
        [(1, 3, 300, 300)],
        [
            ((2, 3, 300, 300), beyond("[2,3,300,300]", 0, 2, "[1,3,300,300]")),
            ((1, 3, 300, 301), beyond("[1,3,300,301]", 3, 301, "[1,3,300,300]")),
        ],
    ),
    "open": Rule(
        models.convolution(), {"shape": "(-1,3,-1,-1)"}, ANY_PICTURE, PICTURES, NO_PICTURE
    ),
    "ranges": Rule(
        models.convolution(),
        {"shape": "(1:4,3,8:32,8:32)", "warm_up": ["(2,3,16,16)"], **BLOCKING},
        ANY_PICTURE,
        [(1, 3, 8, 8), (4, 3, 32, 32), (2, 3, 9, 31)],
        [
            ((5, 3, 8, 8), beyond("[5,3,8,8]", 0, 5, "[1:4,3,8:32,8:32]")),
            ((0, 3, 8, 8), beyond("[0,3,8,8]", 0, 0, "[1:4,3,8:32,8:32]")),
            ((1, 3, 7, 8), beyond("[1,3,7,8]", 2, 7, "[1:4,3,8:32,8:32]")),
            ((1, 3, 8, 33), beyond("[1,3,8,33]", 3, 33, "[1:4,3,8:32,8:32]")),
        ],
    ),
    "mixed": Rule(
        models.convolution(),
        {"shape": "(2,3,8:32,-1)"},
        {"x": [2, 3, -1, -1]},
        [(2, 3, 8, 100), (2, 3, 32, 3)],
        [
            ((1, 3, 8, 8), beyond("[1,3,8,8]", 0, 1, "[2,3,8:32,-1]")),
            ((2, 3, 40, 8), beyond("[2,3,40,8]", 2, 40, "[2,3,8:32,-1]")),
        ],
    ),
    "each-input": Rule(
        models.scaled(),
        {"shape": {"x": "auto", "scale": "(1,-1)"}, **SIDE_BY_SIDE},
        {"x": [-1, -1, -1], "scale": [1, -1]},
        [
            {"x": (1, 3, 4), "scale": (1, 3)},
            {"x": (1, 5, 9), "scale": (1, 5)},
            {"x": (4, 5, 2), "scale": (1, 5)},
        ],
        [
            (
                {"x": (2, 3, 4), "scale": (2, 3)},
                ["'scale' has shape [2,3], dimension 0 is 2, the model takes [1,-1]"],
            ),
            (
                {"x": (1, 3, 4), "scale": (1, 5)},
                ["cannot run at x [1,3,4], scale [1,5]", "refuses it at node 'Multiply_"],
            ),
        ],
    ),
    "one-input": Rule(
        models.scaled(),
        {"shape": {"x": "(-1,3,2:9)"}, **BLOCKING},
        {"x": [-1, 3, -1], "scale": [1, 3]},
        [{"x": (1, 3, 4), "scale": (1, 3)}, {"x": (5, 3, 9), "scale": (1, 3)}],
        [
            (
                {"x": (1, 3, 4), "scale": (2, 3)},
                ["'scale' has shape [2,3], dimension 0 is 2, the model takes [1,3]"],
            ),
            ({"x": (1, 3, 10), "scale": (1, 3)}, beyond("[1,3,10]", 2, 10, "[-1,3,2:9]")),
        ],
    ),
    "rows": Rule(
        models.convolution(),
        {"batch_size": 4},
        {"x": [4, 3, -1, -1]},
        [(4, 3, 8, 8), (4, 3, 5, 13)],
        [((1, 3, 8, 8), beyond("[1,3,8,8]", 0, 1, "[4,3,-1,-1]"))],
    ),
    "rows-of-a-range": Rule(
        models.convolution(),
        {"batch_size": 2, "shape": "(-1,3,8:32,8)", **BLOCKING},
        {"x": [2, 3, -1, 8]},
        [(2, 3, 8, 8), (2, 3, 32, 8)],
        [((3, 3, 8, 8), beyond("[3,3,8,8]", 0, 3, "[2,3,8:32,8]"))],
    ),
    "narrower": Rule(
        models.add_one(BOUNDED),
        {"shape": "(1:3,4:6,4)"},
        {"x": [-1, -1, 4]},
        [(1, 4, 4), (3, 6, 4)],
        [
            ((1, 3, 4), beyond("[1,3,4]", 1, 3, "[1:3,4:6,4]")),
            ((4, 4, 4), beyond("[4,4,4]", 0, 4, "[1:3,4:6,4]")),
        ],
    ),
    "wider": Rule(
        models.add_one(BOUNDED),
        {"shape": "(-1,-1,4)"},
        {"x": [-1, -1, 4]},
        [(1, 1, 4), (2, 20, 4)],
        [((1, 9, 5), beyond("[1,9,5]", 2, 5, "[-1,-1,4]"))],
    ),
    "even": Rule(
        models.even_sizes(), SIDE_BY_SIDE, ANY_PICTURE, [(1, 3, 8, 8), (2, 3, 6, 10)], ODD
    ),
    "even-blocking": Rule(
        models.even_sizes(),
        {**BLOCKING, **SIDE_BY_SIDE},
        ANY_PICTURE,
        [(1, 3, 8, 8), (2, 3, 6, 10)],
        ODD,
    ),
}


def request_of(shapes: Shape | Mapping[str, Shape]) -> Request:
    by_name = shapes if isinstance(shapes, Mapping) else {"x": shapes}
    random = np.random.default_rng(5)
    return [tensor(random.integers(-999, 999, by_name[name]), name=name) for name in by_name]
