"""What inferences run on, whoever makes it."""

from collections.abc import Sequence
from typing import Protocol

from deployments.model.compiled_shape import Space, nowhere
from deployments.tensors import Tensor


class Compilation(Protocol):
    """See `CompiledShape`, which is one."""

    @property
    def streams(self) -> int: ...

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]: ...

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]: ...
