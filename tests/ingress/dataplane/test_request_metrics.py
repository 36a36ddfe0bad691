"""Metrics of requests over each protocol, with a model of fake replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.message import Message

from deployments.errors import InferenceFailed
from deployments.ingress.dataplane.served_model import ServedModel
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.grpc.methods import GrpcMethods
from deployments.ingress.http.routes import HttpRoutes
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from deployments.observability.metrics import (
    BATCH_ROWS,
    HANDOFF_SECONDS,
    QUEUE_SECONDS,
    REJECTED,
    REQUEST_SECONDS,
    REQUESTS,
    SHARED_MEMORY_FALLBACKS,
)
from deployments.settings import Limits
from deployments.transport.arena import Arena
from deployments.transport.batches import BatchReply, Unreachable
from tests.e2e.live import until
from tests.ingress.replicas import INFO, Replicas, tensor
from tests.watching import Recorded


class Context:
    def set_code(self, code: grpc.StatusCode) -> None: ...

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "r1")]

    def set_details(self, details: str) -> None: ...


class Server:
    """The doubler over every protocol."""

    def __init__(self, arena: Arena | None = None, **limits: Any) -> None:
        self.seen = Recorded()
        self.replicas = Replicas()
        bounds = Limits(**limits)
        self.model = ServedModel("doubler", self.replicas, bounds, arena, self.seen)
        models = ServedModels({"doubler": self.model}, bounds, None, telemetry=self.seen)
        self.grpc = GrpcMethods(models)
        transport = httpx.ASGITransport(HttpRoutes(models, None).application())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://server")

    async def infer(self, path: str = "doubler", rows: int = 1, **more: Any) -> int:
        entry = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [1.0] * 2 * rows}
        message = {"inputs": [entry], **more}
        return (await self.http.post(f"/v2/models/{path}/infer", json=message)).status_code

    async def predict(self, path: str = "doubler", **message: Any) -> int:
        message = message or {"instances": [[1.0, 2.0]]}
        return (await self.http.post(f"/v1/models/{path}:predict", json=message)).status_code

    async def call(
        self, method: Callable[[bytes, Any], Awaitable[Message]], message: Message | bytes
    ) -> None:
        content = message if isinstance(message, bytes) else message.SerializeToString()
        await method(content, Context())


def infer_message(model: str = "doubler", rows: int = 1) -> kserve.ModelInferRequest:
    message = kserve.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    message.raw_input_contents.append(np.zeros((rows, 2), np.float32).tobytes())
    return message


async def test_requests_are_counted_by_model_version_protocol_and_code() -> None:
    server = Server()
    predict = serving.PredictRequest(model_spec={"name": "doubler"})

    assert [200, 200] == [await server.infer(), await server.infer("doubler/versions/1")]
    assert 400 == await server.infer(outputs=[{"name": "no"}])
    assert [200, 400] == [await server.predict(), await server.predict(instances=1)]
    await server.call(server.grpc.ModelInfer, infer_message())
    await server.call(server.grpc.ModelInfer, b"\xff")
    await server.call(server.grpc.Predict, predict)

    expected = {
        ("doubler", "2", "kserve_http", "200"): 1,
        ("doubler", "1", "kserve_http", "200"): 1,
        ("doubler", "2", "kserve_http", "400"): 1,
        ("doubler", "2", "tfs_http", "200"): 1,
        ("doubler", "2", "tfs_http", "400"): 1,
        ("doubler", "2", "kserve_grpc", "OK"): 1,
        ("", "", "kserve_grpc", "INVALID_ARGUMENT"): 1,
        ("doubler", "2", "tfs_grpc", "INVALID_ARGUMENT"): 1,
    }
    assert expected == server.seen.of(REQUESTS)
    expected_seconds = {
        ("doubler", "kserve_http"): 3,
        ("doubler", "tfs_http"): 2,
        ("doubler", "kserve_grpc"): 1,
        ("", "kserve_grpc"): 1,
        ("doubler", "tfs_grpc"): 1,
    }
    assert expected_seconds == server.seen.of(REQUEST_SECONDS)


async def test_names_that_clients_make_up_are_no_labels() -> None:
    server = Server()
    for number in range(20):
        await server.infer(f"made-up-{number}")
        await server.infer(f"doubler/versions/{number + 100}")
        await server.predict(f"doubler/labels/label-{number}")
        await server.call(server.grpc.ModelInfer, infer_message(f"other-{number}"))

    expected = {
        ("", "", "kserve_http", "404"): 20,
        ("doubler", "", "kserve_http", "404"): 20,
        ("doubler", "", "tfs_http", "404"): 20,
        ("", "", "kserve_grpc", "NOT_FOUND"): 20,
    }
    assert expected == server.seen.of(REQUESTS)


async def test_each_inference_of_a_stream_is_counted() -> None:
    server = Server()

    async def messages() -> Any:
        yield infer_message().SerializeToString()
        yield infer_message("other").SerializeToString()

    answers = [a async for a in server.grpc.ModelStreamInfer(messages(), Context())]

    assert 2 == len(answers)
    expected = {
        ("doubler", "2", "kserve_grpc", "OK"): 1,
        ("", "", "kserve_grpc", "NOT_FOUND"): 1,
    }
    assert expected == server.seen.of(REQUESTS)


async def test_requests_over_a_limit_are_counted_by_its_name() -> None:
    server = Server(batch_rows=2, body_bytes=500, queue_length=1)
    assert 200 == await server.infer()

    assert 413 == await server.infer(rows=3)
    assert 413 == await server.infer(id="x" * 500)
    assert 504 == await server.infer(parameters={"timeout": 1})
    await server.call(server.grpc.ModelInfer, b"\0" * 501)
    server.replicas.open.clear()
    waits = asyncio.ensure_future(server.infer())
    await until(lambda: server.model._batcher is not None and server.model._batcher.waiting > 0)
    assert 503 == await server.infer()
    server.replicas.open.set()
    assert 200 == await waits

    expected = {
        ("doubler", "batch_rows"): 1,
        ("doubler", "body_bytes"): 1,
        ("doubler", "timeout_s"): 1,
        ("", "body_bytes"): 1,  # whose it would have been is not known before it is read
        ("doubler", "queue_length"): 1,
    }
    assert expected == server.seen.of(REJECTED)


async def test_a_client_that_disconnects_is_counted() -> None:
    server = Server()
    server.replicas.open.clear()
    for call in (server.infer(), server.call(server.grpc.ModelInfer, infer_message())):
        leaves = asyncio.ensure_future(call)
        for _ in range(100):
            await asyncio.sleep(0)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
    server.replicas.open.set()

    codes = sorted(labels[2:] for labels in server.seen.of(REQUESTS))
    assert [("kserve_grpc", "CANCELLED"), ("kserve_http", "499")] == codes


async def test_an_unexpected_error_is_answered_with_500() -> None:
    server = Server()
    server.replicas.outcomes = [ZeroDivisionError(), ZeroDivisionError()]

    assert 500 == await server.infer()
    await server.call(server.grpc.ModelInfer, infer_message())

    expected = {
        ("doubler", "2", "kserve_http", "500"): 1,
        ("doubler", "2", "kserve_grpc", "INTERNAL"): 1,
    }
    assert expected == server.seen.of(REQUESTS)


async def test_a_batch_has_one_way_to_the_model_and_its_requests_each_wait() -> None:
    server = Server()

    await asyncio.gather(
        *(server.model.infer(INFO, [tensor(rows, 2)], (), 9.0) for rows in (1, 2, 3))
    )

    assert {("doubler",): 3} == server.seen.of(QUEUE_SECONDS)
    assert {("doubler",): 1} == server.seen.of(HANDOFF_SECONDS)
    assert [6.0] == server.seen.observed["anyshape_batch_rows", "doubler"]
    assert {("doubler",): 1} == server.seen.of(BATCH_ROWS)


async def test_the_way_to_the_model_is_without_what_the_model_took() -> None:
    server = Server()
    server.replicas.outcomes = [BatchReply((InferenceFailed("doubler", "x"),), took_s=1000.0)]

    await server.infer()

    assert [0.0] == server.seen.observed["anyshape_handoff_seconds", "doubler"]


@pytest.mark.skipif(not Arena.supported(), reason="there is no shared memory here")
async def test_batches_outside_shared_memory_are_counted_with_the_reason() -> None:
    server = Server(Arena(1 << 20))
    server.replicas.outcomes = [Unreachable("full", lasting=False)]
    assert 200 == await server.infer()
    assert {("full",): 1} == server.seen.of(SHARED_MEMORY_FALLBACKS)

    server.replicas.outcomes = [Unreachable("elsewhere", lasting=True)]
    assert [200, 200] == [await server.infer(), await server.infer()]  # the second does not try

    assert {("full",): 1, ("unreachable",): 2} == server.seen.of(SHARED_MEMORY_FALLBACKS)


async def test_where_there_is_no_shared_memory_nothing_falls_back() -> None:
    server = Server()
    assert 200 == await server.infer()
    assert {} == server.seen.of(SHARED_MEMORY_FALLBACKS)


async def test_each_request_of_a_batch_takes_its_id_along() -> None:
    server = Server()
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    over_http = server.http.post(
        "/v2/models/doubler/infer",
        json={"inputs": [entry]},
        headers={"X-Request-ID": "h1"},
    )
    await server.model.status()
    await asyncio.gather(over_http, server.call(server.grpc.ModelInfer, infer_message()))

    ids = [member.request_id for call in server.replicas.calls for member in call.members]
    assert ["h1", "r1"] == sorted(ids)
