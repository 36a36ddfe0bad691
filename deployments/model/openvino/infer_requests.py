"""What OpenVINO compiled once, with its idle infer requests. Blocking, for worker threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.inference import InputShapes


@dataclass(frozen=True, slots=True)
class FinishedInference:
    """An infer request that holds outputs."""

    request: Any
    owner: "InferRequests"

    def give_back(self) -> None:
        self.owner.idle.append(self.request)


class InferRequests:
    """A compiled model and infer requests of it that nobody uses. For several threads at once."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.idle: list[Any] = []
        self.spoilt = False
        """An inference failed here, so that others may be answered wrongly."""

    def taken(self, values: Sequence[Any]) -> Any:
        """One with these inputs. Raises OpenVINO's errors, which spoil nothing yet."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        request.reset_state()  # what a recurrent model remembers is another request's
        for position, value in enumerate(values):
            request.set_input_tensor(position, value)
        return request

    def done(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """One that ran on inputs of these shapes. Raises OpenVINO's errors."""
        request = self.taken(values)
        run(request)
        return FinishedInference(request, self)


def run(request: Any) -> None:
    """Raises OpenVINO's errors; a request that failed is not used again.

    Not by `infer`: with one thread that does not raise the errors of nodes that cannot take their
    shapes, and gives outputs with whatever lies in their memory. It decodes strings, too.
    """
    request.start_async()
    request.wait()
