"""A compilation for open shapes is made anew after an inference failed in it.

Where an inference fails at one node, the CPU plugin has already given the nodes before it that
request's shapes, but takes them for those of the last inference that succeeded in the same stream.
The next with the shapes of that one gets outputs of the wrong shape, or is written into memory that
is too small for it, which may end the process. So:

- a shape that may fail runs while nothing else does: what waits inside of OpenVINO would run in the
  stream of the one that failed before anybody could know;
- in what an inference failed in, none begins any more;
- one that was under way there, because nobody expected that failure, is made again.

In a compilation for fixed shapes all have the same, and none of this is needed.
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
    """What is known of some shapes before an inference at them."""

    RUNS = auto()
    REFUSED = auto()
    UNKNOWN = auto()


class Turns:
    """Lets inferences begin in the order in which they come: some of them only alone."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._under_way = 0
        self._alone = False
        self._changed = threading.Condition()

    def begin(self, *, alone: bool) -> None:
        """Blocks until it may; `end` is to follow."""
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
        self._changed.notify_all()  # the next one may begin, too, where none is alone


class SelfHealingModel:
    """Infer requests of what `compile_it` compiles for shapes some of which are open.

    For several threads at once.
    """

    def __init__(
        self,
        compile_it: Callable[[], Any],
        foresee: Callable[[InputShapes], bool],
        *,
        values_matter: bool = False,
    ) -> None:
        """`foresee` says whether it will run at some shapes, as far as that can be told, or raises
        what shows that it will not. Where it cannot be told and `values_matter`, that it did run
        once shows nothing. Raises what `compile_it` raises."""
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
        """What is used now."""
        return self._current.compiled

    def done(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """An infer request that ran on inputs of these shapes.

        Raises OpenVINO's errors, and what `foresee` does.
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
        """Raises what shows that they do not run, where that has shown to be so."""
        try:
            return _Outlook.RUNS if self._foresee(shapes) else _Outlook.UNKNOWN
        except Exception:
            if self._refusals_hold:
                raise
            return _Outlook.REFUSED

    def _tried(self, values: Sequence[Any], outlook: _Outlook) -> FinishedInference | None:
        """Nothing if another failed meanwhile, so that this one's outputs or error may be due to
        that."""
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
            self._surprised = True  # what it fails by are values, or shapes of which none can tell
        if outlook is _Outlook.REFUSED and self._refusals_hold is None:
            self._refusals_hold = True  # not so where a branch refuses that is not taken

    def _usable(self) -> InferRequests:
        if self._current.spoilt:
            with self._renewing:
                if self._current.spoilt:
                    self._current = InferRequests(self._compile())
                return self._current
        return self._current

    def _done_alone(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """In what nobody else has before it is done."""
        with self._renewing:
            done = InferRequests(self._compile()).done(shapes, values)
            if self._current.spoilt:
                self._current = done.owner
            return done

    def _spoil(self, requests: InferRequests) -> bool:
        """Whether they were not."""
        with self._spoiling:
            spoilt, requests.spoilt = requests.spoilt, True
        return not spoilt
