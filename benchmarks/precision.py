"""The precision that all arms compute in."""

import os
from pathlib import Path

from benchmarks.compiling import PRECISION
from deployments.dimensions import parse_shape_rule
from deployments.model.versions.loaded import LoadedModel, LoadSettings


def settle_precision(model: Path) -> None:
    """Has all arms compute in float32 where this project finds the model quicker in it.

    The other arms would not find that, and what it gains is no matter of serving. Where the
    processor's choice is another and the quicker one, nothing is asked for.
    """
    settings = LoadSettings(
        device="CPU",
        plugin_config={},
        shape=parse_shape_rule("auto"),
        batch_size="auto",
        background=False,
        max_batch_rows=1,
        stacking="never",
    )
    if LoadedModel("detector", "1", model, settings).computes_in == "f32":
        os.environ[PRECISION] = "f32"
