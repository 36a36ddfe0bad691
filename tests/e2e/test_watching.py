"""A server as those who watch it see it: its metrics, its log and its traces."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from deployments.ingress.protos import kserve_v2_pb2 as kserve
from tests.e2e.collector import Collector, collecting
from tests.e2e.conftest import config, save
from tests.e2e.counted_calls import (
    INFER,
    Labelled,
    exported,
    infer,
    infer_grpc,
    message,
    predict_grpc,
    unary,
)
from tests.e2e.live import counting_model
from tests.e2e.server import NO_TLS, Server, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PATIENCE_S = 30.0
MADE_UP = 200
Seen = TypeVar("Seen")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("watched")
    save(counting_model(1), directory / "models", "counting")
    models: list[dict[str, Any]] = [
        {"name": "blocking", "reshape": "blocking", "max_compiled_shapes": 2},
        {"name": "any", "promote_after": 10_000},
    ]
    for model in models:
        model |= {"source": "counting", "batching": {"stacking": "never"}}
    variables = {
        "ANYSHAPE_MODELS": str(directory / "models"),
        "RAY_metrics_report_interval_ms": "1000",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    watched = config(models, limits={"batch_rows": 16, "body_bytes": 100_000})
    watched["logging_config"] |= {"encoding": "JSON", "logs_dir": str(directory / "logs")}
    watched["tracing_config"] = {
        "enabled": True,
        "exporter_import_path": "deployments.observability.tracing:exporters",
        "sampling_ratio": 0.0,  # but what a client traces is
    }
    with running(watched, directory, variables) as server:
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, verify=NO_TLS) as client:
        yield client


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def eventually(look: Callable[[], Seen], enough: Callable[[Seen], bool]) -> Seen:
    """What is seen when it is enough, or at the end of our patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not enough(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return seen


def test_known_traffic_has_exactly_its_numbers(http: httpx.Client, channel: grpc.Channel) -> None:
    for size in (3, 4, 5, 5):  # a third shape pushes out the first
        assert 200 == infer(http, "blocking", 2, size)
    infer_grpc(channel, "blocking", 2, 5)
    predict_grpc(channel, "blocking", 2, 5)
    rows = {"instances": [[0.0] * 5] * 2}
    assert 200 == http.post("/v1/models/blocking:predict", json=rows).status_code
    assert 400 == infer(http, "blocking", 1, 5, outputs=[{"name": "no"}])
    assert 413 == infer(http, "blocking", 17, 5)
    assert 504 == infer(http, "blocking", 1, 5, parameters={"timeout": 1})
    assert 413 == infer(http, "blocking", 1, 5, id="x" * 100_000)
    for number in range(MADE_UP):
        assert 404 == infer(http, f"made-up-{number}", 1, 1)
        assert 200 == infer(http, "any", 1, 1 + number)
    with pytest.raises(grpc.RpcError):
        infer_grpc(channel, "made-up", 1, 5)

    blocking, any_shape = ("blocking",), ("any",)
    expected: dict[str, Labelled] = {
        "requests": {
            ("blocking", "1", "kserve_http", "200"): 4,
            ("blocking", "1", "kserve_http", "400"): 1,
            ("blocking", "1", "kserve_http", "413"): 2,
            ("blocking", "1", "kserve_http", "504"): 1,
            ("blocking", "1", "kserve_grpc", "OK"): 1,
            ("blocking", "1", "tfs_grpc", "OK"): 1,
            ("blocking", "1", "tfs_http", "200"): 1,
            ("any", "1", "kserve_http", "200"): MADE_UP,
            ("", "", "kserve_http", "404"): MADE_UP,
            ("", "", "kserve_grpc", "NOT_FOUND"): 1,
        },
        "request_seconds": {
            ("blocking", "kserve_http"): 8,
            ("blocking", "kserve_grpc"): 1,
            ("blocking", "tfs_grpc"): 1,
            ("blocking", "tfs_http"): 1,
            ("any", "kserve_http"): MADE_UP,
            ("", "kserve_http"): MADE_UP,
            ("", "kserve_grpc"): 1,
        },
        "rejected_requests": {
            ("blocking", "batch_rows"): 1,
            ("blocking", "timeout_s"): 1,
            ("blocking", "body_bytes"): 1,
        },
        "reshapes": {("blocking", "new_shape", "compiled"): 3},
        "compile_seconds": {blocking: 3},
        "compiled_shapes": {blocking: 2, any_shape: 0},
        "evictions": {blocking: 1},
        "dynamic_requests": {any_shape: MADE_UP},
        # One after the other: each is a batch of its own.
        **{
            name: {blocking: 7, any_shape: MADE_UP}
            for name in (
                "queue_seconds",
                "batch_rows",
                "handoff_seconds",
                "inference_seconds",
                "output_seconds",
            )
        },
    }
    memory: list[Labelled] = []

    def now() -> dict[str, Labelled]:
        seen = exported(http)
        memory[:] = [seen.pop(f"shared_memory_{name}bytes", {}) for name in ("", "used_")]
        return seen

    assert expected == eventually(now, lambda seen: seen == expected)
    assert 3 * (2**29 - 4096) == memory[0][()]  # the ingress's and the two models'
    assert 0 <= memory[1][()] < 2**20


# The log ---------------------------------------------------------------------------------------


def logged(server: Server, deployment: str) -> list[dict[str, Any]]:
    """The lines of a deployment's replica."""
    (path,) = server.log.parent.glob(f"logs/**/replica_anyshape_{deployment}_*.log")
    return [json.loads(line) for line in path.read_text().splitlines()]


def reshapes_to(server: Server, shape: str) -> list[dict[str, Any]]:
    return [line for line in logged(server, "blocking") if line.get("shape") == shape]


def test_a_reshape_is_one_line_with_the_id_of_the_request_that_needed_it(
    server: Server, http: httpx.Client, channel: grpc.Channel
) -> None:
    path = "/v2/models/blocking/infer"
    answer = http.post(path, json=message(1, 31), headers={"X-Request-ID": "over-http"})
    request = kserve.ModelInferRequest(model_name="blocking")
    request.inputs.add(name="data", datatype="FP32", shape=[1, 32])
    request.raw_input_contents.append(b"\0" * 128)
    _, call = unary(channel, INFER, request, metadata=[("request_id", "over-grpc")])

    assert "over-http" == answer.headers["x-request-id"]
    assert "over-grpc" == dict(call.trailing_metadata())["request_id"]
    for shape, request_id in (("data [1,31]", "over-http"), ("data [1,32]", "over-grpc")):
        (line,) = eventually(lambda shape=shape: reshapes_to(server, shape), bool)  # type: ignore[misc]
        assert line["seconds"] > 0
        expected = {
            "levelname": "INFO",
            "deployment": "anyshape_blocking",
            "model": "blocking",
            "version": "1",
            "reason": "new_shape",
            "outcome": "compiled",
            "request_id": request_id,
        }
        assert expected == {name: line[name] for name in expected}


def test_an_id_is_made_where_the_client_sends_none_and_no_id_makes_a_line(
    server: Server, http: httpx.Client
) -> None:
    path = "/v2/models/blocking/infer"
    made = http.post(path, json=message(1, 33)).headers["x-request-id"]
    forged = 'a", "outcome": "forged\u0085\u2028{"message": "forged"}'.encode()
    answer = http.post(path, json=message(1, 34), headers={b"X-Request-ID": forged})

    assert 200 == answer.status_code
    (line,) = eventually(lambda: reshapes_to(server, "data [1,33]"), bool)
    assert made == line["request_id"]
    (line,) = eventually(lambda: reshapes_to(server, "data [1,34]"), bool)
    assert 'a", "outcome": "forged?????{"message": "forged"}' == line["request_id"]
    assert "compiled" == line["outcome"]


# Traces ----------------------------------------------------------------------------------------


def traced() -> tuple[str, str, str]:
    """A trace of a client: its id, its span's, and both as `traceparent`."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def attributes(span: Span) -> dict[str, Any]:
    told = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    return {name: told[name] for name in ("model", "version", "rows", "shape")}


OURS = ("queue", "hand-off", "inference")


def check_trace(collector: Collector, trace_id: str, client_span: str, rows: int) -> None:
    spans = eventually(
        lambda: collector.trace(trace_id), lambda s: {*OURS} <= s.keys() and len(s) >= 4
    )
    queue, handoff, inference = (spans[name] for name in OURS)
    served = next(span for span in spans.values() if span.parent_span_id.hex() == client_span)
    assert served.span_id == queue.parent_span_id == handoff.parent_span_id
    assert handoff.span_id == inference.parent_span_id
    times = [
        served.start_time_unix_nano,
        queue.start_time_unix_nano,
        queue.end_time_unix_nano,
        handoff.start_time_unix_nano,
        inference.start_time_unix_nano,
        inference.end_time_unix_nano,
        handoff.end_time_unix_nano,
        served.end_time_unix_nano,
    ]
    slack_ns = 2_000_000  # wall clocks are read at each span
    assert all(a <= b + slack_ns for a, b in pairwise(times)), times
    expected = {"model": "any", "version": "1", "rows": rows, "shape": "[-1,7]"}
    assert [expected] * 3 == [attributes(span) for span in (queue, handoff, inference)]


def test_one_trace_leads_from_the_client_through_the_ingress_to_the_model(
    http: httpx.Client, channel: grpc.Channel, collector: Collector
) -> None:
    """Over HTTP, over gRPC, and for each request of a batch, by handle and by connection."""
    over_http, over_grpc = [traced() for _ in range(8)], traced()
    with ThreadPoolExecutor(4) as clients:

        def ask(number: int) -> int:
            headers = {"traceparent": over_http[number][2]}
            content = message(1 + number, 7)
            return http.post("/v2/models/any/infer", json=content, headers=headers).status_code

        assert {200} == set(clients.map(ask, range(8)))
    request = kserve.ModelInferRequest(model_name="any")
    request.inputs.add(name="data", datatype="FP32", shape=[9, 7])
    request.raw_input_contents.append(b"\0" * 4 * 63)
    unary(channel, INFER, request, metadata=[("traceparent", over_grpc[2])])

    for number, (trace_id, span_id, _) in enumerate((*over_http, over_grpc)):
        check_trace(collector, trace_id, span_id, rows=1 + number)


def test_what_no_client_traces_leaves_no_span(http: httpx.Client, collector: Collector) -> None:
    """The sampling ratio is nought."""
    assert 200 == infer(http, "any", 3, 11)
    trace_id, span_id, traceparent = traced()
    headers = {"traceparent": traceparent}
    assert 200 == http.post("/v2/models/any/infer", json=message(1, 7), headers=headers).status_code

    check_trace(collector, trace_id, span_id, rows=1)
    assert not [span for span in collector.spans if span.name in OURS and "[-1,11]" in str(span)]
