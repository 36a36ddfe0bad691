"""Chooses the precision of a model's arithmetic if the settings do not.

OpenVINO takes bfloat16 on processors with AVX512-BF16. Without AMX that was slower: a detector took
1.6 times as long. It is also less exact.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from deployments.inference import InputShapes, InputSpec
from deployments.model.openvino.compiled_model import CannotInfer, CompiledShape
from deployments.model.openvino.runtime import CannotReshape
from deployments.model.tuning.comparisons import clearly_quicker
from deployments.model.tuning.random_inputs import random_rows

FLOAT32: Final = {"INFERENCE_PRECISION_HINT": "f32"}
MOST_COMPARED_BYTES: Final = 512 << 20
"""A model with more weights keeps OpenVINO's choice, to avoid several compilations."""


def float32_is_quicker(
    specs: Sequence[InputSpec],
    sizes: Iterable[InputShapes],
    compile_for: Callable[[InputShapes, Mapping[str, Any]], CompiledShape],
) -> bool:
    """Whether float32 is clearly faster at all these sizes; at a small one, overhead may decide.

    `compile_for` compiles for shapes with properties in addition to the settings'.
    """
    try:
        return all(
            clearly_quicker(
                compile_for(shapes, FLOAT32), compile_for(shapes, {}), random_rows(specs, shapes, 0)
            )
            for shapes in sizes
        )
    except (CannotReshape, CannotInfer):
        return False
