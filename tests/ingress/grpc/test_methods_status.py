"""What the gRPC methods tell of the server and its models, and loading and unloading."""

import grpc
import pytest

from deployments.inference import ModelStatus
from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from tests.ingress.grpc.calls import LOADING, UNAVAILABLE, asked, infer_request, methods
from tests.ingress.replicas import Replicas


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
