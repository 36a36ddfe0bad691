"""The health of the server, its services and its models."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from tests.ingress.grpc.calls import LOADING, UNAVAILABLE, Context, asked, methods
from tests.ingress.replicas import Replicas


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
