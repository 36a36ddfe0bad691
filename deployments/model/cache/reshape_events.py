"""Reports each reshape, by a line in the log and by metrics."""

import logging
from typing import Literal, NamedTuple, TypeAlias

from deployments.inference import ModelInfo, ShapeKey
from deployments.observability.logs import log
from deployments.observability.metrics import COMPILE_SECONDS, EVICTIONS, RESHAPES, Telemetry

Reason: TypeAlias = Literal["new_shape", "promotion", "warm_up", "fallback"]


class Reshape(NamedTuple):
    """A finished reshape with its compilation, and the outcome."""

    key: ShapeKey
    reason: Reason
    outcome: Literal["compiled", "failed", "discarded"]
    seconds: float
    error: Exception | None = None


class ReshapeReport:
    """Reports the reshapes of one version."""

    def __init__(self, info: ModelInfo, telemetry: Telemetry) -> None:
        self._info = info
        self._telemetry = telemetry

    def reshaped(self, reshape: Reshape) -> None:
        """Logs one line, with the ids of the requests that caused the reshape."""
        model, version = self._info.name, self._info.version
        self._telemetry.count(RESHAPES, model, reshape.reason, reshape.outcome)
        self._telemetry.observe(COMPILE_SECONDS, reshape.seconds, model)
        shape, error = self._info.spelled(reshape.key), reshape.error
        why = "" if error is None else f": {' '.join(str(error.__cause__ or error).split())}"
        log(
            logging.INFO if error is None else logging.WARNING,
            "model '%s' version %s: reshape to %s (%s) %s in %.0f ms%s",
            model,
            version,
            shape,
            reshape.reason,
            reshape.outcome,
            1e3 * reshape.seconds,
            why,
            model=model,
            version=version,
            shape=shape,
            reason=reshape.reason,
            outcome=reshape.outcome,
            seconds=round(reshape.seconds, 6),
        )

    def evicted(self) -> None:
        self._telemetry.count(EVICTIONS, self._info.name)
