"""The gRPC methods that answer an inference."""

import asyncio

import numpy as np

from deployments.ingress.grpc.methods import GrpcMethods
from deployments.ingress.grpc.services import SERVICES
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from tests.ingress.grpc.calls import asked, doubled, infer_request, methods
from tests.ingress.replicas import Replicas


def test_there_is_a_method_for_every_method_of_the_services() -> None:
    names = [method.name for service in SERVICES.values() for method in service.methods]
    assert len(names) == len(set(names)), "Serve knows them by their last name"
    for name in names:
        assert callable(getattr(GrpcMethods, name))


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
