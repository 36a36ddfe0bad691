"""OpenTelemetry spans of a request: its queue, its hand-off and, in the model, its inference.

Serve sets OpenTelemetry up in every replica where `tracing_config` asks for it, and makes the span
of the client's call, which ours belong to. A batch has several requests, and each has its own
spans. Where nothing is traced there are none, nor where OpenTelemetry is not installed.
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
    """The spans of one request in the ingress. Times are those of the monotonic clock."""

    __slots__ = ("_attributes", "_context", "_handoff", "_since")

    def __init__(self, context: Any, since: float, attributes: Mapping[str, str | int]) -> None:
        self._context = context
        self._since = since
        self._attributes = dict(attributes)
        self._handoff: Any = None

    def left(self, now: float) -> None:
        """Its batch leaves: it has been in the queue until now, and now it is handed off."""
        _record("queue", self._context, self._since, now, self._attributes)
        self._handoff = _start("hand-off", self._context, now, self._attributes)

    @property
    def parent(self) -> str:
        """What the model's spans belong to, as a `traceparent`."""
        carrier: dict[str, str] = {}
        if self._handoff is not None:
            context = trace.set_span_in_context(self._handoff)
            TraceContextTextMapPropagator().inject(carrier, context)
        return carrier.get("traceparent", "")

    def back(self, now: float) -> None:
        """Its answer is there, or there will be none."""
        if self._handoff is not None:
            self._handoff.end(_epoch_ns(now))
            self._handoff = None


def begun(since: float, model: str, version: str, rows: int, key: ShapeKey) -> Traced | None:
    """The spans of the request that this task works for, if its call is traced."""
    span = None if trace is None else trace.get_current_span()
    if span is None or not span.is_recording():
        return None
    return Traced(trace.set_span_in_context(span), since, _attributes(model, version, rows, key))


def inferred(
    parent: str, began: float, ended: float, model: str, version: str, rows: int, key: ShapeKey
) -> None:
    """An inference, as part of the span that `parent` names."""
    if trace is not None:
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        _record("inference", context, began, ended, _attributes(model, version, rows, key))


def exporters() -> "list[SpanProcessor]":
    """Sends spans by OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says, for `tracing_config`."""
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
    """A time of the monotonic clock as nanoseconds since 1970."""
    return time.time_ns() - int(1e9 * (time.monotonic() - at))
