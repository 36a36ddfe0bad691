"""The status of a call that goes wrong."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from deployments.errors import InferenceFailed
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from tests.ingress.grpc.calls import asked, infer_request, methods
from tests.ingress.replicas import Replicas

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT

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
