"""The times of a version's inferences, and the cost of building kernels or compiling."""

from typing import Final

from deployments.transport.routing_stats import in_requests

_SMOOTHING: Final = 0.05


class InferenceTimes:
    """Smoothed seconds of a request on the device, with and without building kernels."""

    def __init__(self) -> None:
        self._known_s = 0.0
        self._building_s = 0.0

    def note(self, seconds: float, *, built: bool) -> None:
        if built:
            self._building_s = _smoothed(self._building_s, seconds)
        else:
            self._known_s = _smoothed(self._known_s, seconds)

    def building_cost(self, streams: int) -> float:
        """The cost of building kernels, in requests answered meanwhile; see `in_requests`."""
        return in_requests(self._building_s - self._known_s, self._known_s, streams)

    def compile_cost(self, compile_s: float, streams: int) -> float:
        """The cost of a compilation, in the same unit."""
        return in_requests(compile_s, self._known_s or self._building_s, streams)


def _smoothed(before: float, now: float) -> float:
    return before + (now - before) * (_SMOOTHING if before else 1)
