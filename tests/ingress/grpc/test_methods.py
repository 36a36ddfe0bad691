"""The gRPC methods without a server: bytes in, messages and statuses out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from deployments.errors import InferenceFailed
from deployments.inference import ModelStatus
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.grpc.methods import GrpcMethods
from deployments.ingress.grpc.services import SERVICES
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from deployments.settings import Limits
from tests.ingress.replicas import Replicas, served

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Context:
    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "r1")]

    def set_details(self, details: str) -> None:
        self.details = details


def methods(
    replicas: Replicas | None = None, *, control: bool = False, **limits: Any
) -> GrpcMethods:
    model = served(replicas or Replicas(), **limits)
    return GrpcMethods(ServedModels({"doubler": model}, Limits(**limits), None, control=control))


async def asked(
    method: Callable[[bytes, Any], Awaitable[Message]], request: Message | bytes
) -> tuple[Any, Context]:
    context = Context()
    message = request if isinstance(request, bytes) else request.SerializeToString()
    return await method(message, context), context


def infer_request(*rows: float, model: str = "doubler", **fields: Any) -> kserve.ModelInferRequest:
    message = kserve.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="x", datatype="FP32", shape=[len(rows), 1])
    message.raw_input_contents.append(np.array(rows, np.float32).tobytes())
    return message


def doubled(response: Any) -> list[float]:
    values: list[float] = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
    return values


def test_there_is_a_method_for_every_method_of_the_services() -> None:
    names = [method.name for service in SERVICES.values() for method in service.methods]
    assert len(names) == len(set(names)), "Serve knows them by their last name"
    for name in names:
        assert callable(getattr(GrpcMethods, name))


# Inference --------------------------------------------------------------------------------------


async def test_an_inference() -> None:
    response, context = await asked(methods().ModelInfer, infer_request(1, 2, id="a7"))
    assert context.code is None
    assert ("doubler", "2", "a7") == (response.model_name, response.model_version, response.id)
    assert [2.0, 4.0] == doubled(response)


async def test_a_prediction_shares_a_batch_with_an_inference() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    predict = serving.PredictRequest(model_spec={"name": "doubler"})
    predict.inputs["x"].dtype = serving.DataType.DT_FLOAT
    predict.inputs["x"].float_val.append(3)
    predict.inputs["x"].tensor_shape.dim.add(size=1)
    predict.inputs["x"].tensor_shape.dim.add(size=1)
    await grpc_methods.models.addressed("doubler")
    (first, _), (second, _) = await asyncio.gather(
        asked(grpc_methods.ModelInfer, infer_request(1)), asked(grpc_methods.Predict, predict)
    )
    assert [2.0] == doubled(first)
    assert [6.0] == np.frombuffer(second.outputs["twice"].tensor_content, np.float32).tolist()
    assert [2] == replicas.batch_sizes


WRONG = [
    ("ModelInfer", infer_request(1, model="other"), NOT_FOUND, "'other' is not served here"),
    ("ModelInfer", infer_request(1, model_version="9"), NOT_FOUND, "has no version '9'"),
    ("ModelInfer", b"\xff", INVALID, "the message is not the one that this method takes"),
    ("ModelInfer", kserve.ModelInferRequest(model_name="doubler"), INVALID, "lacks input 'x'"),
    (
        "ModelInfer",
        infer_request(1, raw_input_contents=[b""]),
        INVALID,
        "2 raw_input_contents for 1 inputs",
    ),
    ("ModelMetadata", kserve.ModelMetadataRequest(name="other"), NOT_FOUND, "not served here"),
    ("ModelReady", kserve.ModelReadyRequest(name="other"), NOT_FOUND, "not served here"),
    (
        "ModelReady",
        kserve.ModelReadyRequest(name="doubler", version="9"),
        NOT_FOUND,
        "has no version '9'",
    ),
    ("Predict", serving.PredictRequest(model_spec={"name": "other"}), NOT_FOUND, "not served"),
    (
        "Predict",
        serving.PredictRequest(model_spec={"name": "doubler", "version_label": "stable"}),
        NOT_FOUND,
        "model 'doubler' has no version label 'stable', known: none",
    ),
    (
        "GetModelStatus",
        serving.GetModelStatusRequest(model_spec={"name": "doubler", "version": {"value": 9}}),
        NOT_FOUND,
        "has no version '9'",
    ),
    (
        "GetModelMetadata",
        serving.GetModelMetadataRequest(model_spec={"name": "doubler"}),
        INVALID,
        "there is only 'signature_def'",
    ),
    ("Check", health_pb2.HealthCheckRequest(service="other"), NOT_FOUND, "not served here"),
]


@pytest.mark.parametrize(("name", "request_", "code", "why"), WRONG)
async def test_an_error_is_the_status_of_the_call(
    name: str, request_: Message | bytes, code: grpc.StatusCode, why: str
) -> None:
    _, context = await asked(getattr(methods(), name), request_)
    assert code == context.code
    assert why in context.details


async def test_a_message_over_the_limit_is_not_read() -> None:
    _, context = await asked(methods(body_bytes=100).ModelInfer, bytes(101))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == context.code
    assert "request message of 101 exceeds limits.body_bytes (100)" == context.details


@pytest.mark.parametrize(("letter", "most"), [("x", 2100), ("ä", 500)])
async def test_details_fit_into_a_trailer(letter: str, most: int) -> None:
    request = infer_request(1)
    request.inputs[0].name = letter * 20_000
    _, context = await asked(methods().ModelInfer, request)
    assert INVALID == context.code
    assert 400 < len(context.details) < most


async def test_what_fails_in_the_model_has_its_code_and_words() -> None:
    replicas = Replicas()
    replicas.outcomes.append([InferenceFailed("doubler", "it broke")])
    _, context = await asked(methods(replicas).ModelInfer, infer_request(1))
    assert grpc.StatusCode.INTERNAL == context.code
    assert "inference of model 'doubler' failed: it broke" == context.details


async def test_a_bug_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("deployments.ingress.codecs.kserve_grpc.parse_request", broken)
    _, context = await asked(methods().ModelInfer, infer_request(1))
    assert grpc.StatusCode.INTERNAL == context.code
    assert "internal error, the server's log has the reason" == context.details


async def test_the_time_that_a_request_gives_itself_is_kept() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    await grpc_methods.models.addressed("doubler")
    replicas.open.clear()
    request = infer_request(1)
    request.parameters["timeout"].int64_param = 10_000
    _, context = await asked(grpc_methods.ModelInfer, request)
    assert grpc.StatusCode.DEADLINE_EXCEEDED == context.code
    assert "model 'doubler' did not answer within 0.01 s" == context.details


# Streams ----------------------------------------------------------------------------------------


async def given(messages: Sequence[Message | bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message if isinstance(message, bytes) else message.SerializeToString()


async def test_a_stream_goes_on_after_an_error_and_keeps_its_order() -> None:
    final = infer_request(3, id="c")
    final.parameters["triton_enable_empty_final_response"].bool_param = True
    requests: list[Message | bytes] = [
        infer_request(1, id="a"),
        infer_request(2, id="b", model="other"),
        b"\xff",
        final,
    ]
    answers: list[Any] = [
        answer async for answer in methods().ModelStreamInfer(given(requests), Context())
    ]
    first, second, third, fourth = answers
    assert ("", "a", [2.0]) == (
        first.error_message,
        first.infer_response.id,
        doubled(first.infer_response),
    )
    assert "is not served here" in second.error_message
    assert "b" == second.infer_response.id
    assert "the message is not the one that this method takes" in third.error_message
    assert [6.0] == doubled(fourth.infer_response)
    assert fourth.infer_response.parameters["triton_final_response"].bool_param
    assert "triton_final_response" not in first.infer_response.parameters


async def test_the_inferences_of_a_stream_run_together() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    await grpc_methods.models.addressed("doubler")
    requests = [infer_request(float(n)) for n in range(20)]
    answers = [answer async for answer in grpc_methods.ModelStreamInfer(given(requests), Context())]
    assert [[2.0 * n] for n in range(20)] == [doubled(a.infer_response) for a in answers]  # type: ignore[attr-defined]
    assert max(replicas.batch_sizes) > 1


async def test_a_stream_is_read_ahead_so_far_and_no_farther() -> None:
    replicas, read = Replicas(), list[int]()
    grpc_methods = methods(replicas)
    await grpc_methods.models.addressed("doubler")
    replicas.open.clear()

    async def counted() -> AsyncIterator[bytes]:
        for number in range(100):
            read.append(number)
            yield infer_request(float(number)).SerializeToString()

    stream = grpc_methods.ModelStreamInfer(counted(), Context())
    first = asyncio.ensure_future(anext(stream))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert 65 == len(read), "64 under way and one that waits"
    replicas.open.set()
    answers: list[Any] = [await first, *[answer async for answer in stream]]
    assert [[2.0 * n] for n in range(100)] == [doubled(a.infer_response) for a in answers]


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


async def test_a_stream_that_is_left_leaves_nothing_behind() -> None:
    replicas = Replicas()
    grpc_methods = methods(replicas)
    model = (await grpc_methods.models.addressed("doubler")).model
    replicas.open.clear()
    stream = grpc_methods.ModelStreamInfer(given([infer_request(1)] * 3), Context())
    waiting = asyncio.ensure_future(anext(stream))
    await eventually(lambda: bool(replicas.calls))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert model._batcher is not None
    assert 0 == model._batcher.waiting
    replicas.open.set()
    await grpc_methods.models.close()


# Status -----------------------------------------------------------------------------------------


async def test_server_and_model_are_described() -> None:
    grpc_methods = methods()
    assert (await asked(grpc_methods.ServerLive, b""))[0].live
    assert (await asked(grpc_methods.ServerReady, b""))[0].ready
    assert "anyshape" == (await asked(grpc_methods.ServerMetadata, b""))[0].name
    request = kserve.ModelReadyRequest(name="doubler", version="2")
    assert (await asked(grpc_methods.ModelReady, request))[0].ready
    metadata, _ = await asked(
        grpc_methods.ModelMetadata, kserve.ModelMetadataRequest(name="doubler")
    )
    assert [-1, -1] == metadata.inputs[0].shape


LOADING = ModelStatus("LOADING", "it is being downloaded")
UNAVAILABLE = ModelStatus("UNAVAILABLE", "no such file")


@pytest.mark.parametrize("status", [LOADING, UNAVAILABLE])
async def test_a_model_that_is_not_there_yet_is_not_ready(status: ModelStatus) -> None:
    grpc_methods = methods(Replicas(status))
    assert not (await asked(grpc_methods.ServerReady, b""))[0].ready
    request = kserve.ModelReadyRequest(name="doubler")
    assert not (await asked(grpc_methods.ModelReady, request))[0].ready
    _, context = await asked(grpc_methods.ModelInfer, infer_request(1))
    assert grpc.StatusCode.UNAVAILABLE == context.code
    assert status.reason in context.details
    index, _ = await asked(grpc_methods.RepositoryIndex, b"")
    assert [("doubler", "", status.state, status.reason)] == [
        (m.name, m.version, m.state, m.reason) for m in index.models
    ]
    only_ready = kserve.RepositoryIndexRequest(ready=True)
    assert not (await asked(grpc_methods.RepositoryIndex, only_ready))[0].models
    spec = {"name": "doubler"}
    told, _ = await asked(
        grpc_methods.GetModelStatus, serving.GetModelStatusRequest(model_spec=spec)
    )
    expected = {
        "LOADING": (0, serving.ModelVersionStatus.LOADING, 0, "it is being downloaded"),
        "UNAVAILABLE": (0, serving.ModelVersionStatus.END, 14, "no such file"),
    }
    assert [expected[status.state]] == [
        (s.version, s.state, s.status.error_code, s.status.error_message)
        for s in told.model_version_status
    ]


async def test_the_index_has_every_version() -> None:
    index, _ = await asked(methods().RepositoryIndex, kserve.RepositoryIndexRequest(ready=True))
    assert [("1", "READY"), ("2", "READY")] == [(m.version, m.state) for m in index.models]


async def test_a_model_is_unloaded_and_loaded_if_the_settings_say_so() -> None:
    unload = kserve.RepositoryModelUnloadRequest(model_name="doubler")
    load = kserve.RepositoryModelLoadRequest(model_name="doubler")
    ready = kserve.ModelReadyRequest(name="doubler")
    for method, request in (("RepositoryModelUnload", unload), ("RepositoryModelLoad", load)):
        _, context = await asked(getattr(methods(), method), request)
        assert grpc.StatusCode.PERMISSION_DENIED == context.code
    grpc_methods = methods(control=True)
    assert (await asked(grpc_methods.ModelReady, ready))[0].ready
    assert (await asked(grpc_methods.RepositoryModelUnload, unload))[1].code is None
    assert not (await asked(grpc_methods.ModelReady, ready))[0].ready
    assert (await asked(grpc_methods.RepositoryModelLoad, load))[1].code is None
    assert (await asked(grpc_methods.ModelReady, ready))[0].ready


async def test_health_of_the_server_its_services_and_its_models() -> None:
    response = health_pb2.HealthCheckResponse
    for service in ("", "inference.GRPCInferenceService", "doubler"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert response.SERVING == (await asked(methods().Check, request))[0].status
        broken = methods(Replicas(UNAVAILABLE))
        assert response.NOT_SERVING == (await asked(broken.Check, request))[0].status


async def test_health_is_listed() -> None:
    listed, _ = await asked(methods().List, b"")
    serving = health_pb2.HealthCheckResponse.SERVING
    assert {"", "doubler", "tensorflow.serving.ModelService"} <= listed.statuses.keys()
    assert {serving} == {response.status for response in listed.statuses.values()}


async def test_health_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.timing.HEALTH_WATCH_S", 0.01)
    monkeypatch.setattr("deployments.timing.STATUS_FRESH_S", 0.0)
    replicas, response = Replicas(LOADING), health_pb2.HealthCheckResponse
    request = health_pb2.HealthCheckRequest(service="doubler").SerializeToString()
    watch = methods(replicas).Watch(request, Context())
    first: Any = await anext(watch)
    replicas.status_now = Replicas().status_now
    second: Any = await anext(watch)
    assert [response.NOT_SERVING, response.SERVING] == [first.status, second.status]
    other = health_pb2.HealthCheckRequest(service="other").SerializeToString()
    unknown: Any = await anext(methods().Watch(other, Context()))
    assert response.SERVICE_UNKNOWN == unknown.status
