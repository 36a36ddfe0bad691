"""The precision in which all arms compute."""

import os
from pathlib import Path

from benchmarks.compiling import PRECISION
from deployments.dimensions import parse_shape_rule
from deployments.model.versions.loaded import LoadedModel, LoadSettings


def settle_precision(model: Path) -> None:
    """Sets float32 for all arms if this project chooses it because the model is faster in it.

    The other arms would not choose it, and that gain has nothing to do with serving. If the
    processor's own choice is faster, this sets nothing.
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
