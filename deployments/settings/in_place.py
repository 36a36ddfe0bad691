"""Lists which of a model's settings change while it serves, and which reload the model.

Every setting is in one of the two lists; a test names one that is in neither.
"""

from typing import Final

CHANGED_IN_PLACE: Final = (
    "name",
    "source",  # the server compares the source's files instead
    "max_compiled_shapes",
    "promote_after",
    "compiles_per_minute",
    "compile_timeout_s",
    "model_version_policy",
    "poll_s",
    "storage_options",
    "remember_shapes",
    "version_labels",
    "batching",  # except `stacking`, and whether `max_rows` is 1
)

LOADED_ANEW: Final = (
    "shape",
    "batch_size",
    "layout",
    "precision",
    "color_format",
    "resize",
    "mean",
    "scale",
    "reshape",
    "kernel_cache_mb",
    "plugin_config",
    "device",
    "warm_up",
    "unload_after_s",
)
