"""The interface of a compilation that runs inferences."""

from collections.abc import Sequence
from typing import Protocol

from deployments.model.openvino.compiled_model import Space, no_allocation
from deployments.tensors import Tensor


class Compilation(Protocol):
    """A compilation that runs inferences, such as `CompiledShape`."""

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = no_allocation
    ) -> list[Tensor]: ...
