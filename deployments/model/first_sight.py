"""Never-seen shapes: the first inference of each runs in a process that is there for them.

An inference of a dynamic compilation at a shape for the first time has its kernels built for that
shape, which can take far longer than the inference. Whether it does is measured when a model is
loaded; so is in which precision: on processors that compute in bfloat16 kernels for it may take
twice as long to build as those for float32, so that float32 is the faster one for a shape that
comes once, and bfloat16 for one that comes again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal

from deployments.model.apart import Apart
from deployments.model.apart_process import Recipe
from deployments.model.compilation import Compilation
from deployments.model.compiled_shape import CompiledShape, Space, nowhere
from deployments.model.last_shapes import LastShapes
from deployments.model.measuring import building_matters, quicker_at_first_sight
from deployments.model.precision import FLOAT32
from deployments.tensors import Tensor

_MOST_PROCESSES: Final = 4
_REMEMBERED: Final = 64


class FirstSight:
    """The `usual` dynamic compilation, and processes that run what has a new shape instead: one
    that has not yet succeeded. A shape that fails does so there, where nobody else is.

    Like `CompiledShape`, and like it for several threads at once.
    """

    def __init__(self, usual: Compilation, apart: Apart) -> None:
        self._usual, self._apart = usual, apart
        # Of those before them the kernels are not kept anyway.
        self._succeeded = LastShapes(_REMEMBERED)

    @property
    def streams(self) -> int:
        return self._usual.streams

    @property
    def processes(self) -> int:
        """How many there are now."""
        return self._apart.alive

    def infer(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> list[Tensor]:
        return self.timed(tensors, wanted, space)[0]

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]:
        shapes = tuple(tensor.shape for tensor in tensors)
        new = shapes not in self._succeeded
        answer = self._apart.timed(tensors, wanted, space) if new else None
        if answer is None:
            answer = self._usual.timed(tensors, wanted, space)
        self._succeeded.add(shapes)
        return answer

    def close(self) -> None:
        """Ends the processes. Blocks; nothing may be running."""
        self._apart.close()


def where_it_pays(
    usual: CompiledShape,
    recipe: Recipe,
    processes: int | Literal["auto"],
    in_float32: Callable[[], CompiledShape] | None,
    new: Iterator[Sequence[Tensor]],
) -> FirstSight | None:
    """So many processes beside `usual`, or one for each of its streams if building kernels takes
    at least half as long as inferences with them.

    They compute in float32 where `in_float32` gives a compilation that answers shapes sooner that
    are new. `new` are tensors of shapes that nothing has run. Raises CannotReshape, CannotInfer.
    """
    if processes == "auto" and not building_matters(usual, new):
        return None
    count = min(usual.streams, _MOST_PROCESSES) if processes == "auto" else processes
    if in_float32 is not None and quicker_at_first_sight(in_float32(), usual, new):
        recipe = replace(recipe, plugin_config={**recipe.plugin_config, **FLOAT32})
    return FirstSight(usual, Apart(recipe, count))
