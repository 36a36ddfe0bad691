"""Models, some of which would give wrong answers if rows of different requests were stacked."""

import numpy as np
import openvino as ov

from tests.e2e.small.answers import Request
from tests.model.graph.rows import row_models
from tests.model.loading import tensor

ACROSS = {
    "rows-largest": "scaled by the largest of all",
    "rows-quantized": "quantized by all",
    "rows-counted": "divided by the number of rows",
}
MODELS: dict[str, ov.Model] = {
    **{name: row_models.of(row_models.ACROSS[kind][0]) for name, kind in ACROSS.items()},
    "rows-apart": row_models.of(row_models.APART["scaled by the largest of each"]),
}
SETTINGS = {"rows-apart": {"batching": {"stacking": "always"}}}


def requests() -> list[Request]:
    """Requests of one shape with integers, every third with values sixty times as large."""
    random = np.random.default_rng(1)
    return [
        [tensor(random.integers(-3, 4, (1, 4, 6)).astype(np.float32) * (1 if n % 3 else 60))]
        for n in range(20)
    ]
