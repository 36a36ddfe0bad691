"""What can be chosen to be measured: loads that run on the same start of the arms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Final

from benchmarks.measuring import Row
from benchmarks.peers.environments import InstallError
from benchmarks.peers.measuring import expected, make_ready
from benchmarks.peers.triton import loads, measuring
from benchmarks.peers.triton.arms import Arm, started
from benchmarks.peers.triton.measuring import Span, awake, signalled
from benchmarks.peers.wire import KSERVE_BINARY, Tensor
from benchmarks.shapes import Shape
from benchmarks.workloads import NEW, Workload

SEEN: Final = NEW[:3]


@dataclass(frozen=True)
class Group:
    """`settings` are for this project's model; of the shapes `seen` the answers are compared with
    OpenVINO's afterwards, as before they are new."""

    first: Workload
    rows: Callable[[Sequence[Arm], Span], Iterator[Row]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seen: tuple[Shape, ...] = ()


def _steady(workloads: Sequence[Workload]) -> Callable[[Sequence[Arm], Span], Iterator[Row]]:
    def rows(arms: Sequence[Arm], span: Span) -> Iterator[Row]:
        for workload in workloads:
            yield from measuring.steady(arms, workload, span)

    return rows


GROUPS: Final[Mapping[str, Group]] = {
    "one-shape": Group(loads.ONE_SHAPE_LOADS[0], _steady(loads.ONE_SHAPE_LOADS)),
    "two-shapes": Group(loads.TWO_SHAPES, _steady([loads.TWO_SHAPES])),
    "tiny": Group(loads.TINY_1, _steady([loads.TINY_1, loads.TINY_64])),
    "zipf": Group(loads.KNOWN_ALONE, measuring.zipf, seen=SEEN),
    "new-shapes": Group(loads.KNOWN_ALONE, _steady([loads.NEW_SHAPES]), seen=SEEN),
    "known-shape": Group(
        loads.KNOWN_ALONE, measuring.known_shape, loads.PROMOTION_SETTINGS, seen=SEEN
    ),
    "memory": Group(loads.KNOWN_ALONE, measuring.memory, seen=SEEN),
}


@dataclass
class Run:
    """What all groups share. An arm that does not start, fails or answers wrongly is left out of
    all that follows, and `left_out` says why."""

    models: Mapping[str, Path]
    span: Span
    left_out: dict[str, str] = field(default_factory=dict)

    def rows(self, group: Group, names: Sequence[str]) -> Iterator[Row]:
        """On servers of the group's own."""
        model = self.models[group.first.model]
        checked = expected(model, loads.CHECKED[group.first.model])
        seen = expected(model, group.seen)
        with ExitStack() as running:
            arms = []
            for name in (name for name in names if name not in self.left_out):
                with self._leaving_out(name), ExitStack() as starting:
                    arm = starting.enter_context(self._stopped(name, group, model))
                    _check(arm, checked)
                    running.push(starting.pop_all())
                    arms.append(arm)
            yield from group.rows(arms, self.span)
            for arm in arms:
                with self._leaving_out(arm.name):
                    _check(arm, seen)

    @contextmanager
    def _stopped(self, name: str, group: Group, model: Path) -> Iterator[Arm]:
        """A running arm that is stopped; it is woken to be ended."""
        directory, settings = self.span.directory, group.settings
        with started(name, group.first, model, directory, settings) as arm:
            try:
                signalled(arm, SIGSTOP)
                yield arm
            finally:
                signalled(arm, SIGCONT)

    @contextmanager
    def _leaving_out(self, name: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, InstallError) as error:
            print(f"left out: {name}: {error}", flush=True)
            self.left_out[name] = str(error)


def _check(arm: Arm, answers: dict[Shape, list[Tensor]]) -> None:
    with awake(arm):
        make_ready(arm.target.url, KSERVE_BINARY, answers)
