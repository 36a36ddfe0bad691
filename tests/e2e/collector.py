"""An OpenTelemetry collector in the test's own process."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Collector:
    """Takes spans as an OpenTelemetry collector does, over HTTP."""

    url: str
    spans: list[Span]

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by their names."""
        spans = [span for span in list(self.spans) if span.trace_id.hex() == trace_id]
        assert len({span.name for span in spans}) == len(spans), spans
        return {span.name: span for span in spans}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield Collector(f"http://127.0.0.1:{listening.server_port}", spans)
        listening.shutdown()
        thread.join()
