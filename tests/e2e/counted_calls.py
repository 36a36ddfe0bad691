"""Calls over every protocol to a model with one input, and the metrics that count them."""

from collections import Counter
from typing import Any

import grpc
import httpx
import numpy as np
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from deployments.ingress.protos import kserve_v2_pb2 as kserve
from deployments.ingress.protos import tensorflow_serving_pb2 as serving
from deployments.observability.metrics import METRICS

INFER = "/inference.GRPCInferenceService/ModelInfer"
Labelled = dict[tuple[str, ...], int]


def message(*shape: int, **more: Any) -> dict[str, Any]:
    data = np.zeros(shape).ravel().tolist()
    return {"inputs": [{"name": "data", "datatype": "FP32", "shape": shape, "data": data}], **more}


def infer(http: httpx.Client, model: str, *shape: int, **more: Any) -> int:
    return http.post(f"/v2/models/{model}/infer", json=message(*shape, **more)).status_code


def infer_grpc(channel: grpc.Channel, model: str, *shape: int) -> None:
    request = kserve.ModelInferRequest(model_name=model)
    request.inputs.add(name="data", datatype="FP32", shape=shape)
    request.raw_input_contents.append(np.zeros(shape, np.float32).tobytes())
    unary(channel, INFER, request)


def predict_grpc(channel: grpc.Channel, model: str, *shape: int) -> None:
    request = serving.PredictRequest(model_spec={"name": model})
    request.inputs["data"].dtype = serving.DataType.DT_FLOAT
    for size in shape:
        request.inputs["data"].tensor_shape.dim.add(size=size)
    request.inputs["data"].float_val.extend(np.zeros(shape).ravel().tolist())
    method = "/tensorflow.serving.PredictionService/Predict"
    unary(channel, method, request)


def unary(channel: grpc.Channel, method: str, request: Message, **more: Any) -> Any:
    call: Any = channel.unary_unary(method)
    return call.with_call(request.SerializeToString(), timeout=30, **more)


def exported(http: httpx.Client) -> dict[str, Labelled]:
    """Our counters, gauges, and histograms' counts by their labels, those of Ray left out."""
    response = http.get("/metrics")
    assert 200 == response.status_code
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = {metric.exported_name: metric.labels for metric in METRICS}
    seen: dict[str, Counter[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            name = sample.name.removesuffix("_count")
            if name in labels:
                own = tuple(sample.labels[label] for label in labels[name])
                short = name.removeprefix("ray_anyshape_").removesuffix("_total")
                seen.setdefault(short, Counter())[own] += int(sample.value)
    return {name: dict(counts) for name, counts in seen.items()}
