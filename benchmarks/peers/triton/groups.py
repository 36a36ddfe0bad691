"""The groups of loads, which run on the same start of the arms, and which can be chosen."""

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
    """Loads on one start of the arms. `settings` are for this project's model.

    After the loads, the answers for the shapes `seen` are compared with OpenVINO's. Before, these
    shapes must be new.
    """

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
    """The state that all groups share.

    An arm that does not start, fails or gives wrong answers is skipped from then on; `left_out`
    has the reasons.
    """

    models: Mapping[str, Path]
    span: Span
    left_out: dict[str, str] = field(default_factory=dict)

    def rows(self, group: Group, names: Sequence[str]) -> Iterator[Row]:
        """Measures a group on newly started servers."""
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
        """Starts an arm and stops it; resumes it at the end, so that it can exit."""
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
            print(f"skipped: {name}: {error}", flush=True)
            self.left_out[name] = str(error)


def _check(arm: Arm, answers: dict[Shape, list[Tensor]]) -> None:
    with awake(arm):
        make_ready(arm.target.url, KSERVE_BINARY, answers)
