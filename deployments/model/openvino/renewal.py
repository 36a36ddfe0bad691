"""Renews a compilation for open shapes after an inference failed in it.

When an inference fails at a node, the CPU plugin has already given that request's shapes to the
nodes before it, but takes them for those of the last inference that succeeded in the same stream.
The next inference with the shapes of that one gets outputs of the wrong shape, or writes into
memory that is too small, which may end the process. So:

- a shape that may fail runs alone, because an inference that waits inside OpenVINO would run in the
  stream of the failed one before this module learns of the failure;
- no inference begins in a compilation in which one failed;
- inferences that were in flight there during an unexpected failure run again.

In a compilation for fixed shapes all inferences have the same shapes, so it needs none of this.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

from deployments.inference import InputShapes
from deployments.model.openvino.infer_requests import FinishedInference, InferRequests, run
from deployments.model.openvino.recent_shapes import RecentShapes

_REMEMBERED: Final = 1024


class _Outlook(Enum):
    """The forecast for an inference at some shapes."""

    RUNS = auto()
    REFUSED = auto()
    UNKNOWN = auto()


class Turns:
    """Lets inferences begin in the order in which they arrive, some of them only alone."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._under_way = 0
        self._alone = False
        self._changed = threading.Condition()

    def begin(self, *, alone: bool) -> None:
        """Blocks until the inference may begin; the caller must call `end` after it."""
        with self._changed:
            if self._waiting or not self._may_begin(alone):
                self._wait(alone)
            self._under_way += 1
            self._alone = alone

    def end(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._alone = False
            if self._waiting:
                self._changed.notify_all()

    def _may_begin(self, alone: bool) -> bool:
        return not (self._under_way if alone else self._alone)

    def _wait(self, alone: bool) -> None:
        self._waiting.append(turn := object())
        while self._waiting[0] is not turn or not self._may_begin(alone):
            self._changed.wait()
        self._waiting.popleft()
        self._changed.notify_all()  # the next one may begin, too, unless one runs alone


class SelfHealingModel:
    """A compiled model with open shapes that is compiled again after a failure; thread-safe."""

    def __init__(
        self,
        compile_it: Callable[[], Any],
        foresee: Callable[[InputShapes], bool],
        *,
        values_matter: bool = False,
    ) -> None:
        """Compiles the model. Raises what `compile_it` raises.

        `foresee` returns whether the model surely runs at some shapes, and raises if it does not
        run. Where that is uncertain and `values_matter`, one success does not prove the shapes.
        """
        self._current = InferRequests(compile_it())
        self._compile = compile_it
        self._foresee = foresee
        self._values_matter = values_matter
        self._turns = Turns()
        self._succeeded = RecentShapes(_REMEMBERED)
        self._surprised = False
        self._refusals_hold: bool | None = None
        self._spoiling = threading.Lock()
        self._renewing = threading.Lock()

    @property
    def compiled(self) -> Any:
        """The compiled model in use."""
        return self._current.compiled

    def done(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """Runs an inference on inputs of these shapes.

        Raises OpenVINO's errors, and those of `foresee`.
        """
        known = shapes in self._succeeded
        outlook = _Outlook.RUNS if known else self._outlook(shapes)
        self._turns.begin(alone=self._surprised or outlook is not _Outlook.RUNS)
        try:
            done = self._tried(values, outlook)
        finally:
            self._turns.end()
        if done is None:
            done = self._done_alone(shapes, values)
        if outlook is _Outlook.REFUSED:
            self._refusals_hold = False
        if not known and not (outlook is _Outlook.UNKNOWN and self._values_matter):
            self._succeeded.add(shapes)
        return done

    def _outlook(self, shapes: InputShapes) -> _Outlook:
        """The outlook for these shapes. Raises `foresee`'s error once its refusals have held."""
        try:
            return _Outlook.RUNS if self._foresee(shapes) else _Outlook.UNKNOWN
        except Exception:
            if self._refusals_hold:
                raise
            return _Outlook.REFUSED

    def _tried(self, values: Sequence[Any], outlook: _Outlook) -> FinishedInference | None:
        """Runs an inference; None if another one failed meanwhile and may have spoilt it."""
        requests = self._usable()
        request = requests.taken(values)
        try:
            run(request)
        except Exception:
            if self._spoil(requests):
                self._note_failure(outlook)
                raise
        return None if requests.spoilt else FinishedInference(request, requests)

    def _note_failure(self, outlook: _Outlook) -> None:
        if outlook is _Outlook.RUNS:
            self._surprised = True  # it fails by values, or by shapes that cannot be foreseen
        if outlook is _Outlook.REFUSED and self._refusals_hold is None:
            self._refusals_hold = True  # false if the refusal is of a branch that is not taken

    def _usable(self) -> InferRequests:
        if self._current.spoilt:
            with self._renewing:
                if self._current.spoilt:
                    self._current = InferRequests(self._compile())
                return self._current
        return self._current

    def _done_alone(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """Runs an inference in a new compilation, which no other inference uses before it ends."""
        with self._renewing:
            done = InferRequests(self._compile()).done(shapes, values)
            if self._current.spoilt:
                self._current = done.owner
            return done

    def _spoil(self, requests: InferRequests) -> bool:
        """Marks the compilation as spoilt; returns whether it was not yet."""
        with self._spoiling:
            spoilt, requests.spoilt = requests.spoilt, True
        return not spoilt
