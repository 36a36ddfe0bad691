"""Never-seen shapes on a processor that computes in less than float32.

An inference of a dynamic compilation at a shape for the first time has its kernels built for that
shape, and of bfloat16 with AMX those take far longer to build than of float32: in the end float32
is the faster one for a shape that comes once, and bfloat16 for one that comes again. Which of the
two a model has is measured when it is loaded.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from deployments.model.runtime import Space, nowhere
from deployments.tensors import Tensor

_REMEMBERED_SHAPES: Final = 64
"""Of shapes that came before so many others the kernels are not kept anyway."""


class Compilation(Protocol):
    """What inferences run on."""

    @property
    def streams(self) -> int: ...

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]: ...

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]: ...


class FirstSight:
    """Two dynamic compilations: `quick` runs what has a new shape, `usual` what had it before.

    Like `CompiledShape`, and like it for several threads at once.
    """

    def __init__(self, usual: Compilation, quick: Compilation) -> None:
        self._usual, self._quick = usual, quick
        self._seen: OrderedDict[tuple[tuple[int, ...], ...], None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def streams(self) -> int:
        return self._usual.streams

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]:
        return self._for(tensors).infer(tensors, wanted, space)

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]:
        return self._for(tensors).timed(tensors, wanted, space)

    def _for(self, tensors: Sequence[Tensor]) -> Compilation:
        shapes = tuple(tensor.shape for tensor in tensors)
        with self._lock:
            seen = shapes in self._seen
            self._seen[shapes] = None
            self._seen.move_to_end(shapes)
            if len(self._seen) > _REMEMBERED_SHAPES:
                self._seen.popitem(last=False)
        return self._usual if seen else self._quick
