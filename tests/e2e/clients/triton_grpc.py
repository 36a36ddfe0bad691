"""Calls the unmodified `tritonclient.grpc`.

A separate interpreter runs them, because the client's messages have the names of the server's. Each
function takes the server's `<host>:<port>`.
"""

import asyncio
import queue
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.clients.answering import answer

ROWS = np.arange(20, dtype=np.float32).reshape(2, 10)


def rows(values: Any = ROWS) -> list[Any]:
    tensor = triton.InferInput("data", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return [tensor]


def check(result: Any, values: Any = ROWS) -> None:
    np.testing.assert_array_equal(values + 1, result.as_numpy("sum"))


def refused(code: str, words: str, call: Any, *arguments: Any, **named: Any) -> None:
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        assert f"StatusCode.{code}" == error.status(), error
        assert words in error.message(), error
    else:
        raise AssertionError(f"not refused with {code}")


def describes(address: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("add-one")
    assert client.is_model_ready("add-one", "1")
    assert not client.is_model_ready("missing")
    assert "anyshape" == client.get_server_metadata().name
    metadata = client.get_model_metadata("add-one", as_json=True)
    assert "openvino" == metadata["platform"]
    assert ["-1", "10"] == metadata["inputs"][0]["shape"]
    config = client.get_model_config("add-one").config
    assert ([-1, 10], 0) == (list(config.input[0].dims), config.max_batch_size)
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert ("1", "READY") == (index["add-one"].version, index["add-one"].state)
    assert "UNAVAILABLE" == index["missing"].state
    assert "127.0.0.1" in index["missing"].reason


def infers(address: str) -> None:
    client = triton.InferenceServerClient(address)
    result = client.infer("add-one", rows(), request_id="a7", model_version="1")
    check(result)
    response = result.get_response()
    assert ("add-one", "1", "a7") == (response.model_name, response.model_version, response.id)
    check(client.infer("add-one", rows(), outputs=[triton.InferRequestedOutput("sum")]))
    empty = np.zeros((0, 10), np.float32)
    refused("INVALID_ARGUMENT", "shape [0,10]", client.infer, "add-one", rows(empty))


def infers_compressed(address: str) -> None:
    client = triton.InferenceServerClient(address)
    for algorithm in ("gzip", "deflate"):
        check(client.infer("add-one", rows(), compression_algorithm=algorithm))


def infers_async(address: str) -> None:
    client, results = triton.InferenceServerClient(address), queue.Queue[Any]()
    for number in range(16):
        client.async_infer(
            "add-one",
            rows(ROWS + number),
            lambda result, error, number=number: results.put((number, result, error)),
        )
    for _ in range(16):
        number, result, error = results.get(timeout=30)
        assert error is None, error
        check(result, ROWS + number)


def streams(address: str) -> None:
    client, results = triton.InferenceServerClient(address), queue.Queue[Any]()
    client.start_stream(lambda result, error: results.put((result, error)))
    for number in range(16):
        name = "unheard-of" if number == 5 else "add-one"
        client.async_stream_infer(
            name,
            rows(ROWS + number),
            request_id=str(number),
            enable_empty_final_response=number == 7,
        )
    for number in range(16):
        result, error = results.get(timeout=30)
        if number == 5:
            assert "model 'unheard-of' is not served here" in error.message(), error
            continue
        assert error is None, error
        check(result, ROWS + number)
        response = result.get_response()
        assert str(number) == response.id
        final = response.parameters.get("triton_final_response")
        assert (number == 7) == (final is not None)
    client.stop_stream()


def infers_aio(address: str) -> None:
    async def play() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("add-one")
            assert "add-one" == (await client.get_model_metadata("add-one")).name
            calls = (client.infer("add-one", rows(ROWS + n)) for n in range(16))
            for number, result in enumerate(await asyncio.gather(*calls)):
                check(result, ROWS + number)

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for number in range(8):
                    name = "unheard-of" if number == 3 else "add-one"
                    yield {"model_name": name, "inputs": rows(ROWS + number)}

            number = 0
            async for result, error in client.stream_infer(requests()):
                if number == 3:
                    assert "is not served here" in error.message()
                else:
                    assert error is None, error
                    check(result, ROWS + number)
                number += 1
            assert 8 == number

    asyncio.run(play())


def sends_strings(address: str) -> None:
    client = triton.InferenceServerClient(address)
    words = triton.InferInput("words", [2], "BYTES")
    words.set_data_from_numpy(np.array([b"one", b"\xff\x00two"], dtype=object))
    numbers = triton.InferInput("numbers", [1, 2], "INT64")
    numbers.set_data_from_numpy(np.array([[1, -(2**62)]], np.int64))
    names = [output.name for output in client.get_model_metadata("echo").outputs]
    for wanted in (names, names[::-1], names[:1]):
        outputs = [triton.InferRequestedOutput(name) for name in wanted]
        result = client.infer("echo", [words, numbers], outputs=outputs)
        assert wanted == [output.name for output in result.get_response().outputs]
        for name in wanted:
            answer = result.as_numpy(name)
            expected = [b"one", b"\xff\x00two"] if answer.dtype.kind == "O" else [[1, -(2**62)]]
            assert expected == answer.tolist()


def sends_pictures(address: str) -> None:
    import cv2

    client = triton.InferenceServerClient(address)
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    pixels = picture.astype(np.float32).transpose(2, 0, 1)[np.newaxis]
    plain = triton.InferInput("data", list(pixels.shape), "FP32")
    plain.set_data_from_numpy(pixels)
    expected = client.infer("spots", [plain]).as_numpy("detection_out")
    png = cv2.imencode(".png", picture)[1].tobytes()
    encoded = triton.InferInput("data", [1], "BYTES")
    encoded.set_data_from_numpy(np.array([png], dtype=object))
    answer = client.infer("spots", [encoded]).as_numpy("detection_out")
    np.testing.assert_array_equal(expected, answer)


def sends_typed_contents(address: str) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
    request = service_pb2.ModelInferRequest(model_name="add-one")
    entry = request.inputs.add(name="data", datatype="FP32", shape=[2, 10])
    entry.contents.fp32_contents.extend(ROWS.ravel())
    raw = stub.ModelInfer(request).raw_output_contents[0]
    np.testing.assert_array_equal(ROWS + 1, np.frombuffer(raw, np.float32).reshape(2, 10))
    request.raw_input_contents.append(ROWS.tobytes())
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
        assert "input 'data' has both contents and raw_input_contents" in str(error.details())
    else:
        raise AssertionError("both were accepted")


def is_refused(address: str) -> None:
    client = triton.InferenceServerClient(address)
    refused("NOT_FOUND", "'unheard-of' is not served", client.infer, "unheard-of", rows())
    refused("NOT_FOUND", "has no version '9'", client.infer, "add-one", rows(), model_version="9")
    refused("UNAVAILABLE", "127.0.0.1", client.infer, "missing", rows())
    wide = np.zeros((1, 9), np.float32)
    refused("INVALID_ARGUMENT", "dimension 1 is 9", client.infer, "add-one", rows(wide))
    refused(
        "INVALID_ARGUMENT",
        "no output 'x'",
        client.infer,
        "add-one",
        rows(),
        outputs=[triton.InferRequestedOutput("x")],
    )
    refused("UNIMPLEMENTED", "", client.get_inference_statistics)
    refused("UNIMPLEMENTED", "", client.get_system_shared_memory_status)


def is_too_late(address: str) -> None:
    client = triton.InferenceServerClient(address)
    wide = triton.InferInput("data", [1, 61, 4], "FP32")  # its compilation takes about a second
    wide.set_data_from_numpy(np.zeros((1, 61, 4), np.float32))
    words = "model 'slow' did not answer within 0.05 s"
    refused("DEADLINE_EXCEEDED", words, client.infer, "slow", [wide], timeout=50_000)
    began = time.monotonic()
    wide = triton.InferInput("data", [1, 62, 4], "FP32")
    wide.set_data_from_numpy(np.zeros((1, 62, 4), np.float32))
    refused("DEADLINE_EXCEEDED", "", client.infer, "slow", [wide], client_timeout=0.1)
    assert time.monotonic() - began < 30
    check(client.infer("add-one", rows()))


def is_too_large(address: str) -> None:
    client = triton.InferenceServerClient(address)
    huge = np.zeros((5_000_000, 10), np.float32)
    assert huge.nbytes == 200_000_000
    words = "exceeds limits.body_bytes (33554432)"
    refused("RESOURCE_EXHAUSTED", words, client.infer, "add-one", rows(huge))
    check(client.infer("add-one", rows()))


def leaves(address: str) -> None:
    """Some of many callers cancel, and one channel is closed: the others get their answers."""
    client, results = triton.InferenceServerClient(address), queue.Queue[Any]()
    leaver = triton.InferenceServerClient(address)

    def slow(length: int) -> list[Any]:
        tensor = triton.InferInput("data", [1, length, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, length, 4), np.float32))
        return [tensor]

    calls = [
        (client if number % 2 else leaver).async_infer(
            "slow",
            slow(63),
            lambda result, error, number=number: results.put((number, result, error)),
        )
        for number in range(12)
    ]
    time.sleep(0.2)
    calls[1].cancel()
    leaver.close()
    answered = 0
    while answered < 5:
        number, result, error = results.get(timeout=50)
        if number % 2 and number != 1:
            assert error is None, error
            expected = client.infer("slow", slow(63)).as_numpy("out")
            np.testing.assert_array_equal(expected, result.as_numpy("out"))
            answered += 1
    assert client.is_server_ready()


def is_healthy(address: str) -> None:
    channel = grpc.insecure_channel(address)
    stub = health_pb2_grpc.HealthStub(channel)
    response = health_pb2.HealthCheckResponse
    for service, expected in (
        ("", response.SERVING),
        ("inference.GRPCInferenceService", response.SERVING),
        ("add-one", response.SERVING),
        ("missing", response.NOT_SERVING),
    ):
        request = health_pb2.HealthCheckRequest(service=service)
        assert expected == stub.Check(request).status, service
        watch = stub.Watch(request)
        assert expected == next(watch).status
        watch.cancel()
    assert "spots" in stub.List(health_pb2.HealthListRequest()).statuses
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="unheard-of"))
    except grpc.RpcError as error:
        assert grpc.StatusCode.NOT_FOUND == error.code()
    else:
        raise AssertionError("an unknown service is healthy")


def is_reflected(address: str) -> None:
    database = ProtoReflectionDescriptorDatabase(grpc.insecure_channel(address))
    services = database.get_services()
    for name in ("inference.GRPCInferenceService", "tensorflow.serving.PredictionService"):
        assert name in services
        file = database.FindFileContainingSymbol(name)
        described = {f"{file.package}.{service.name}": service for service in file.service}
        assert len(described[name].method) >= 2


if __name__ == "__main__":
    answer(globals())
