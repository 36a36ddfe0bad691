"""Binds a request's tensors to a model's inputs, and remembers the bindings."""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from deployments.inference import ModelInfo, ShapeKey
from deployments.tensors import Tensor

_REMEMBERED: Final = 4096
_Signature: TypeAlias = tuple[str, tuple[tuple[str, str, tuple[int, ...]], ...]]


class _Binding(NamedTuple):
    """The position of each of the model's inputs in the request, the shape key, and the rows."""

    positions: tuple[int, ...]
    key: ShapeKey
    rows: int


class InputBindings:
    """Checks tensors as `ModelInfo` does, once for each set of names, datatypes and shapes."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._known: dict[_Signature, _Binding] = {}

    def of(
        self, info: ModelInfo, tensors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], ShapeKey, int]:
        """The tensors in the model's order, their shape key and their number of rows.

        Raises as `ModelInfo.arrange` and `ModelInfo.key_and_rows`.
        """
        signature = info.revision, tuple((t.name, t.datatype, t.shape) for t in tensors)
        known = self._known.get(signature)
        if known is None:
            known = self._arranged(info, tensors)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[signature] = known
        return tuple(tensors[position] for position in known.positions), known.key, known.rows

    def _arranged(self, info: ModelInfo, tensors: Sequence[Tensor]) -> _Binding:
        arranged = info.arrange(tensors)
        key, rows = info.key_and_rows(arranged, self._max_rows)
        names = [tensor.name for tensor in tensors]
        return _Binding(tuple(names.index(tensor.name) for tensor in arranged), key, rows)
