"""Spans, as an exporter gets them. Through a server: tests/e2e/test_watching.py."""

import sys
import time
from collections.abc import Iterator
from importlib import reload
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.observability import tracing

KEY = ((-1, 3), (2,))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """A replacement for the process's tracer provider, which can be set only once."""
    provider = TracerProvider()
    monkeypatch.setattr(tracing.trace, "get_tracer", provider.get_tracer)
    return provider


@pytest.fixture
def ended(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    provider.shutdown()


def by_name(ended: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in ended.get_finished_spans()}


def test_a_request_is_in_the_queue_then_handed_off_and_inferred_meanwhile(
    provider: TracerProvider, ended: InMemorySpanExporter
) -> None:
    now = time.monotonic()
    with provider.get_tracer("serve").start_as_current_span("call"):
        traced = tracing.begun(now, "m", "2", 4, KEY)
        assert traced is not None
    traced.left(now + 1)
    tracing.inferred(traced.parent, now + 2, now + 3, "m", "2", 4, KEY)
    traced.back(now + 4)
    traced.back(now + 5)

    spans = by_name(ended)
    ids = {name: span.context.span_id for name, span in spans.items() if span.context}
    parents = {name: span.parent.span_id for name, span in spans.items() if span.parent}
    assert {
        "queue": ids["call"],
        "hand-off": ids["call"],
        "inference": ids["hand-off"],
    } == parents
    took = {n: round(((s.end_time or 0) - (s.start_time or 0)) / 1e9, 2) for n, s in spans.items()}
    assert {"queue": 1.0, "hand-off": 3.0, "inference": 1.0, "call": took["call"]} == took
    told = {"model": "m", "version": "2", "rows": 4, "shape": "[-1,3] [2]"}
    for name in parents:
        assert told == dict(spans[name].attributes or {})


def test_without_a_traced_call_there_are_no_spans(ended: InMemorySpanExporter) -> None:
    assert tracing.begun(0.0, "m", "1", 1, KEY) is None
    assert {} == by_name(ended)


def test_a_parent_that_is_no_traceparent_is_no_error(ended: InMemorySpanExporter) -> None:
    tracing.inferred("nonsense", 0.0, 1.0, "m", "1", 1, KEY)

    assert by_name(ended)["inference"].parent is None


def test_where_opentelemetry_is_missing_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", missing)
    try:
        reload(tracing)
        assert tracing.begun(0.0, "m", "1", 1, KEY) is None
        tracing.inferred("00-1-1-01", 0.0, 1.0, "m", "1", 1, KEY)
    finally:
        monkeypatch.undo()
        reload(tracing)
    assert tracing.trace is not None
