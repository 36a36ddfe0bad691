"""Numbers that OpenVINO's device narrows, over every protocol: computed right, or refused."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import httpx
import numpy as np
import pytest

from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from deployments.tensors import Array
from tests.e2e.server import NO_TLS, Server
from tests.e2e.small.answers import Request
from tests.e2e.wire import Form, Refused, asked
from tests.model.loading import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Ask: TypeAlias = Callable[[Server, str, Request], Array]

DTYPES: dict[str, Any] = {"INT64": serving.DataType.DT_INT64, "FP64": serving.DataType.DT_DOUBLE}
FIELDS = {"INT64": ("int64_contents", "int64_val"), "FP64": ("fp64_contents", "double_val")}


def flat(values: Any) -> list[Any]:
    return list(np.asarray(values).ravel().tolist())


def by_form(form: Form) -> Ask:
    return lambda server, model, request: np.asarray(asked(server, model, request, form)[0].data)


def called(server: Server, method: str, request: Any) -> bytes:
    with grpc.insecure_channel(server.grpc) as channel:
        call: Any = channel.unary_unary(method)
        try:
            answer: bytes = call(request.SerializeToString(), timeout=50)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details() or "") from None
    return answer


def by_contents(server: Server, model: str, request: Request) -> Array:
    name, version = server.model(model)
    message = kserve.ModelInferRequest(model_name=name, model_version=version)
    for given in request:
        entry = message.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
        getattr(entry.contents, FIELDS[given.datatype][0]).extend(flat(given.data))
    answer = called(server, "/inference.GRPCInferenceService/ModelInfer", message)
    raw = kserve.ModelInferResponse.FromString(answer).raw_output_contents[0]
    data = np.asarray(request[0].data)
    return np.frombuffer(raw, data.dtype).reshape(data.shape)


def by_tfs_rest(server: Server, model: str, request: Request) -> Array:
    content = {"inputs": {t.name: np.asarray(t.data).tolist() for t in request}}
    name, version = server.model(model)
    url = f"{server.url}/v1/models/{name}/versions/{version}:predict"
    response = httpx.post(url, json=content, timeout=50, verify=NO_TLS)
    if response.status_code != 200:
        raise Refused(response.status_code, response.json()["error"])
    return np.array(response.json()["outputs"], np.asarray(request[0].data).dtype)


def by_tfs_grpc(server: Server, model: str, request: Request) -> Array:
    name, version = server.model(model)
    message = serving.PredictRequest(model_spec={"name": name, "version": {"value": int(version)}})
    for given in request:
        proto = message.inputs[given.name]
        proto.dtype = DTYPES[given.datatype]
        for size in given.shape:
            proto.tensor_shape.dim.add(size=size)
        getattr(proto, FIELDS[given.datatype][1]).extend(flat(given.data))
    answer = called(server, "/tensorflow.serving.PredictionService/Predict", message)
    (output,) = serving.PredictResponse.FromString(answer).outputs.values()
    data = np.asarray(request[0].data)
    return np.frombuffer(output.tensor_content, data.dtype).reshape(data.shape)


WAYS: dict[str, Ask] = {
    "rest json": by_form("json"),
    "rest binary": by_form("binary"),
    "grpc raw": by_form("grpc"),
    "grpc contents": by_contents,
    "tfs rest": by_tfs_rest,
    "tfs grpc": by_tfs_grpc,
}


def two(a: Any, b: Any, datatype: str) -> Request:
    return [tensor(a, datatype, "a"), tensor(b, datatype, "b")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT64", 5 * 10**9), ("INT64", -(2**31) - 1), ("INT64", 2**40), ("FP64", 1.79e308)],
)
def test_inputs_beyond_the_device_are_refused_by_name(
    server: Server, way: str, datatype: str, value: float
) -> None:
    request = two([[1, 1], [2, 2]], [[1, 1], [2, value]], datatype)
    with pytest.raises(Refused) as refusal:
        WAYS[way](server, f"sum-{datatype}", request)
    assert refusal.value.status in (400, "INVALID_ARGUMENT")
    for word in ("input 'b'", datatype, repr(value)):
        assert word in refusal.value.words


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("datatype", "a", "b"),
    [
        ("INT64", 2 * 10**9, 2 * 10**9),
        ("INT64", -(2**31), -1),
        ("FP64", 3e38, 3e38),
    ],
)
def test_results_beyond_the_device_are_computed_right(
    server: Server, way: str, rows: int, datatype: str, a: float, b: float
) -> None:
    request = two([[a, 1]] * rows, [[b, 2]] * rows, datatype)
    answer = WAYS[way](server, f"sum-{datatype}", request)
    np.testing.assert_array_equal(np.array([[a + b, 3]] * rows, answer.dtype), answer, strict=True)


def test_the_metadata_tell_what_is_computed_in(server: Server) -> None:
    for datatype, narrow in (("INT64", "INT32"), ("FP64", "FP32")):
        metadata = httpx.get(server.url + server.path(f"sum-{datatype}")).json()
        for port in metadata["inputs"] + metadata["outputs"]:
            assert {"computed_in": narrow} == port["parameters"]
        statistics = server.statistics(f"sum-{datatype}")
        assert {datatype: narrow} == statistics["computed_in"]
