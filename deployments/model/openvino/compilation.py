"""What inferences run on, whoever makes it."""

from collections.abc import Sequence
from typing import Protocol

from deployments.model.openvino.compiled_model import Space, no_allocation
from deployments.tensors import Tensor


class Compilation(Protocol):
    """See `CompiledShape`, which is one."""

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = no_allocation
    ) -> list[Tensor]: ...
