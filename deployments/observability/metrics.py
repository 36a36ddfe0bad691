"""Declares every metric once and reports them to Ray, which exports them.

A label's values are models, versions, protocols, codes, reasons or limits: never shapes, and never
names that a client made up.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from deployments import timing
from deployments.transport.arena import Arena

logger: Final = logging.getLogger("ray.serve")

_AT_ONCE: Final = 50
_TURNS: Final = 100
_SECONDS: Final = tuple(
    digit * 10.0**power for power in range(-4, 2) for digit in (1, 2, 5) if digit * 10**power <= 60
)
# Ray counts each value as the middle of its bucket: with these bounds one row counts as 1, not 0.5.
_ROWS: Final = (0.5, 1.5, *(2.0**power + 0.5 for power in range(1, 13)))


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """The declaration of a metric; `boundaries` are a histogram's.

    Ray puts `ray_` before the name, and `_total` after a counter's.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    meaning: str
    boundaries: tuple[float, ...] = ()

    @property
    def exported_name(self) -> str:
        return f"ray_{self.name}" + "_total" * (self.kind == "counter")


REQUESTS: Final = Metric(
    "counter",
    "anyshape_requests",
    ("model", "version", "protocol", "code"),
    "Inference requests. The protocol is `kserve_http`, `kserve_grpc`, `tfs_http` or `tfs_grpc`; "
    "the code is HTTP's status (499: the client disconnected) or the name of gRPC's code. The "
    "model is empty if it is not served, the version if none was found.",
)
REQUEST_SECONDS: Final = Metric(
    "histogram",
    "anyshape_request_seconds",
    ("model", "protocol"),
    "Time from the arrival of an inference request until its answer is ready to be sent.",
    _SECONDS,
)
QUEUE_SECONDS: Final = Metric(
    "histogram",
    "anyshape_queue_seconds",
    ("model",),
    "Time that a request waited in the ingress until its batch left.",
    _SECONDS,
)
HANDOFF_SECONDS: Final = Metric(
    "histogram",
    "anyshape_handoff_seconds",
    ("model",),
    "Time of a batch's way to the model and back: what the ingress waited, less the model's time.",
    _SECONDS,
)
INFERENCE_SECONDS: Final = Metric(
    "histogram",
    "anyshape_inference_seconds",
    ("model",),
    "Time of a request's inference in OpenVINO; a stacked batch's counts for each of its requests.",
    _SECONDS,
)
OUTPUT_SECONDS: Final = Metric(
    "histogram",
    "anyshape_output_seconds",
    ("model",),
    "Time from the end of a request's inference until its batch's answer was ready to be sent.",
    _SECONDS,
)
BATCH_ROWS: Final = Metric(
    "histogram", "anyshape_batch_rows", ("model",), "Rows of each batch that left.", _ROWS
)
RESHAPES: Final = Metric(
    "counter",
    "anyshape_reshapes",
    ("model", "reason", "outcome"),
    "Reshapes with their compilation. Reasons: a `new_shape` that a request waits for, the "
    "`promotion` of a frequent shape, `warm_up`, or `fallback` where the dynamic compilation "
    "failed. Outcomes: `compiled`, `failed`, or `discarded` as not faster than the dynamic "
    "compilation.",
)
COMPILE_SECONDS: Final = Metric(
    "histogram",
    "anyshape_compile_seconds",
    ("model",),
    "Time of a reshape with its compilation, whatever its outcome.",
    _SECONDS,
)
COMPILED_SHAPES: Final = Metric(
    "gauge", "anyshape_compiled_shapes", ("model",), "Static compilations that a replica holds."
)
EVICTIONS: Final = Metric(
    "counter",
    "anyshape_evictions",
    ("model",),
    "Static compilations that were evicted for others or by a lower `max_compiled_shapes`.",
)
SHAPES_DIFFERING: Final = Metric(
    "counter",
    "anyshape_shapes_differing",
    ("model",),
    "Shapes for which two compilations of a model gave different answers to the same inputs: "
    "OpenVINO compiled one of them wrongly. The log and `/v2/models/{m}/shapes` name the shapes.",
)
DYNAMIC_REQUESTS: Final = Metric(
    "counter",
    "anyshape_dynamic_requests",
    ("model",),
    "Requests that the dynamic compilation, for all shapes, answered.",
)
SHARED_MEMORY_USED: Final = Metric(
    "gauge",
    "anyshape_shared_memory_used_bytes",
    (),
    "Shared memory of a replica that is in use.",
)
SHARED_MEMORY: Final = Metric(
    "gauge",
    "anyshape_shared_memory_bytes",
    (),
    "Shared memory that a replica may use, `limits.shared_memory_bytes`.",
)
SHARED_MEMORY_FALLBACKS: Final = Metric(
    "counter",
    "anyshape_shared_memory_fallbacks",
    ("reason",),
    "Batches that went through Ray's object store instead: the shared memory was `full`, or "
    "`unreachable` for the model's replica, as from another node.",
)
REJECTED: Final = Metric(
    "counter",
    "anyshape_rejected_requests",
    ("model", "limit"),
    "Inference requests that exceeded a limit, by its name under `limits` in the settings.",
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Telemetry:
    """The interface by which all parts report, with the labels in the declared order.

    This implementation drops every report.
    """

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Raises a counter."""

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""


SILENT: Final = Telemetry()


class RayTelemetry(Telemetry):
    """Reports to Ray, which tags every metric with the application, deployment and replica.

    A call to Ray takes some microseconds, several times as long between two inferences, so no
    request waits for one. Counts are added up here and reported every second, together with the
    observed values, a few at a time. Gauges are read then too, because Ray forgets those that are
    not set again. Used on a replica's event loop, once the replica has its context.
    """

    def __init__(self) -> None:
        self._metrics = {metric: _ray_metric(metric) for metric in METRICS}
        self._counts: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._observed: deque[tuple[Metric, float, tuple[str, ...]]] = deque()
        self._tags: dict[tuple[Metric, tuple[str, ...]], dict[str, str]] = {}
        self._gauges: list[tuple[Metric, tuple[str, ...], Callable[[], float]]] = []
        self._handing_over: asyncio.Task[None] | None = None

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        self._counts[metric, labels] = self._counts.get((metric, labels), 0) + by

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        self._observed.append((metric, value, labels))

    def watch(self, metric: Metric, read: Callable[[], float], *labels: str) -> None:
        """Sets the gauge to what `read` returns, every second."""
        self._gauges.append((metric, labels, read))

    def watch_memory(self, arena: Arena | None) -> None:
        if arena is not None:
            self.watch(SHARED_MEMORY, lambda: arena.size)
            self.watch(SHARED_MEMORY_USED, lambda: arena.used_bytes)

    def start(self) -> None:
        """Reports to Ray every second until `close`."""
        if self._handing_over is None:
            self._handing_over = asyncio.get_running_loop().create_task(self._hand_over_on())

    async def close(self) -> None:
        """Stops reporting, after one last report of what is left."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            with suppress(asyncio.CancelledError):
                await self._handing_over
        self.hand_over()

    def hand_over(self) -> None:
        _logged(self._hand_over_sums)
        while self._observed:
            _logged(self._hand_over_some)

    def _hand_over_sums(self) -> None:
        counts, self._counts = self._counts, {}
        for (metric, labels), value in counts.items():
            self._metrics[metric].inc(value, self._tagged(metric, labels))
        for metric, labels, read in self._gauges:
            self._metrics[metric].set(read(), self._tagged(metric, labels))

    def _hand_over_some(self, most: int = _AT_ONCE) -> None:
        """Reports some observed values; a failure loses the rest of them."""
        some = [self._observed.popleft() for _ in range(min(most, len(self._observed)))]
        for metric, value, labels in some:
            self._metrics[metric].observe(value, self._tagged(metric, labels))

    async def _hand_over_on(self) -> None:
        while True:
            await asyncio.sleep(timing.METRICS_HANDED_OVER_S)
            _logged(self._hand_over_sums)
            # Later values wait for the next round, so that counts and gauges get their turn.
            at_once = max(_AT_ONCE, len(self._observed) // _TURNS)
            for _ in range(0, len(self._observed), at_once):
                _logged(partial(self._hand_over_some, at_once))
                await asyncio.sleep(0)

    def _tagged(self, metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
        tags = self._tags.get((metric, labels))
        if tags is None:
            tags = dict(zip(metric.labels, labels, strict=True))
            self._tags[metric, labels] = tags
        return tags


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        logger.exception("cannot report metrics to Ray, some are lost")


def _ray_metric(metric: Metric) -> Any:
    # Imported here, so that the parts that only report do not need Ray.
    from ray.serve.metrics import Counter, Gauge, Histogram

    labels: Any = metric.labels  # of any length, whatever Ray's annotation says
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.meaning, list(metric.boundaries), labels)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.meaning, labels)


def metrics_table() -> str:
    """Renders the declared metrics as a Markdown table."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.exported_name}` | {metric.kind} | {labels} | {metric.meaning} |"


if __name__ == "__main__":
    sys.stdout.write(metrics_table() + "\n")
