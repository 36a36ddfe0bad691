"""OpenTelemetry spans of a request: its queue, its hand-off and, in the model, its inference.

With `tracing_config`, Serve sets up OpenTelemetry in every replica and makes the span of the
client's call, the parent of these spans. Each request of a batch has its own spans. There are none
if the call is not traced, or if OpenTelemetry is not installed.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from deployments.errors import dims
from deployments.inference import ShapeKey

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

trace: Any = None
with suppress(ImportError):
    import opentelemetry.trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    trace = opentelemetry.trace

_TRACER: Final = "anyshape"


class Traced:
    """The spans of one request in the ingress; times are of the monotonic clock."""

    __slots__ = ("_attributes", "_context", "_handoff", "_since")

    def __init__(self, context: Any, since: float, attributes: Mapping[str, str | int]) -> None:
        self._context = context
        self._since = since
        self._attributes = dict(attributes)
        self._handoff: Any = None

    def left(self, now: float) -> None:
        """Ends the queue's span and starts the hand-off's: the request's batch leaves."""
        _record("queue", self._context, self._since, now, self._attributes)
        self._handoff = _start("hand-off", self._context, now, self._attributes)

    @property
    def parent(self) -> str:
        """The parent of the model's spans, as a `traceparent`."""
        carrier: dict[str, str] = {}
        if self._handoff is not None:
            context = trace.set_span_in_context(self._handoff)
            TraceContextTextMapPropagator().inject(carrier, context)
        return carrier.get("traceparent", "")

    def back(self, now: float) -> None:
        """Ends the hand-off's span: the answer has arrived, or none will."""
        if self._handoff is not None:
            self._handoff.end(_epoch_ns(now))
            self._handoff = None


def begun(since: float, model: str, version: str, rows: int, key: ShapeKey) -> Traced | None:
    """Starts the spans of the request that this task works for, if its call is traced."""
    span = None if trace is None else trace.get_current_span()
    if span is None or not span.is_recording():
        return None
    return Traced(trace.set_span_in_context(span), since, _attributes(model, version, rows, key))


def inferred(
    parent: str, began: float, ended: float, model: str, version: str, rows: int, key: ShapeKey
) -> None:
    """Records an inference's span, below the span that `parent` names."""
    if trace is not None:
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        _record("inference", context, began, ended, _attributes(model, version, rows, key))


def exporters() -> "list[SpanProcessor]":
    """Returns span processors that export to OTEL_EXPORTER_OTLP_ENDPOINT, for `tracing_config`."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def _attributes(model: str, version: str, rows: int, key: ShapeKey) -> dict[str, str | int]:
    shape = " ".join(map(dims, key))
    return {"model": model, "version": version, "rows": rows, "shape": shape}


def _record(
    name: str, context: Any, start: float, end: float, attributes: Mapping[str, str | int]
) -> None:
    _start(name, context, start, attributes).end(_epoch_ns(end))


def _start(name: str, context: Any, start: float, attributes: Mapping[str, str | int]) -> Any:
    tracer = trace.get_tracer(_TRACER)
    return tracer.start_span(
        name, context, attributes=dict(attributes), start_time=_epoch_ns(start)
    )


def _epoch_ns(at: float) -> int:
    """Converts a time of the monotonic clock to nanoseconds since 1970."""
    return time.time_ns() - int(1e9 * (time.monotonic() - at))
