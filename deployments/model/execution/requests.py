"""The requests of a batch, and their answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from deployments.errors import ServingError
from deployments.model.openvino.compiled_model import Space, no_allocation
from deployments.tensors import Tensor

Answer: TypeAlias = list[Tensor] | ServingError


@dataclass(slots=True)
class Times:
    """When a request's inference began and ended (monotonic clock); None before that."""

    began: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class BatchMember:
    """One request of a batch; `deadline` is a time of the monotonic clock.

    `space` allocates memory for outputs. `trace` is the parent of the inference's span.
    """

    tensors: Sequence[Tensor]
    rows: int
    outputs: tuple[str, ...]
    deadline: float
    timeout_s: float
    space: Space = no_allocation
    request_id: str = ""
    trace: str = ""
    times: Times = field(default_factory=Times)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tensor.shape for tensor in self.tensors)


def copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the tensors."""
    return [
        Tensor(
            tensor.name,
            tensor.datatype,
            tensor.shape,
            list(tensor.data) if isinstance(tensor.data, list) else tensor.data.copy(),
        )
        for tensor in tensors
    ]


def wanted(outputs: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """The outputs of these names, in their order; all outputs if there are no names."""
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in names] if names else list(outputs)


def rows_of(members: Sequence[BatchMember]) -> int:
    return sum(work.rows for work in members)


def note_inference(members: Sequence[BatchMember], ended: float, ns: int) -> None:
    """Sets the times of all members of an inference that took `ns` nanoseconds."""
    for work in members:
        work.times.began, work.times.ended = ended - 1e-9 * ns, ended
