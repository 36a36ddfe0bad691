"""A compiled model and its idle infer requests. Blocking: call it in worker threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.inference import InputShapes


@dataclass(frozen=True, slots=True)
class FinishedInference:
    """An infer request that holds the outputs of its inference."""

    request: Any
    owner: "InferRequests"

    def give_back(self) -> None:
        self.owner.idle.append(self.request)


class InferRequests:
    """A compiled model with its idle infer requests; thread-safe."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.idle: list[Any] = []
        self.spoilt = False
        """Whether an inference failed here, after which others may be answered wrongly."""

    def taken(self, values: Sequence[Any]) -> Any:
        """Takes an infer request and sets its inputs. Raises OpenVINO's errors: harmless here."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        request.reset_state()  # a recurrent model's state comes from another request
        for position, value in enumerate(values):
            request.set_input_tensor(position, value)
        return request

    def done(self, shapes: InputShapes, values: Sequence[Any]) -> FinishedInference:
        """Runs an inference on inputs of these shapes. Raises OpenVINO's errors."""
        request = self.taken(values)
        run(request)
        return FinishedInference(request, self)


def run(request: Any) -> None:
    """Runs an infer request. Raises OpenVINO's errors; do not use a failed request again.

    Does not call OpenVINO's `infer`: with one thread that raises no error when a node cannot take
    its shapes, and returns uninitialised outputs. It also decodes strings.
    """
    request.start_async()
    request.wait()
