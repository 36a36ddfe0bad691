"""`tritonclient.http` as its users have it: nothing about it is changed, only the address."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    yield client
    client.close()


ROWS = np.arange(20, dtype=np.float32).reshape(2, 10)


def rows_input(*, binary: bool) -> list[Any]:
    tensor = triton.InferInput("data", [2, 10], "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return [tensor]


def test_live_ready_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("add-one")
    assert client.is_model_ready("add-one", "1")
    assert not client.is_model_ready("missing")
    assert "anyshape" == client.get_server_metadata()["name"]
    assert [-1, 10] == client.get_model_metadata("add-one")["inputs"][0]["shape"]
    assert "TYPE_FP32" == client.get_model_config("add-one")["input"][0]["data_type"]
    assert "READY" in {model["state"] for model in client.get_model_repository_index()}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = (
        None if binary_out is None else [triton.InferRequestedOutput("sum", binary_data=binary_out)]
    )
    result = client.infer("add-one", rows_input(binary=binary_in), outputs=outputs, request_id="a1")

    assert np.array_equal(ROWS + 1, result.as_numpy("sum"))
    assert "a1" == result.get_response()["id"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: Any, algorithm: str) -> None:
    result = client.infer(
        "add-one",
        rows_input(binary=True),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )

    assert np.array_equal(ROWS + 1, result.as_numpy("sum"))


def test_async_infer(client: Any) -> None:
    pending = [client.async_infer("add-one", rows_input(binary=True)) for _ in range(8)]

    for request in pending:
        assert np.array_equal(ROWS + 1, request.get_result().as_numpy("sum"))


def test_strings_and_a_subset_of_outputs(client: Any) -> None:
    words = triton.InferInput("words", [2], "BYTES")
    words.set_data_from_numpy(np.array([b"one", b"\xff\x00two"], dtype=object))
    numbers = triton.InferInput("numbers", [1, 2], "INT64")
    numbers.set_data_from_numpy(np.array([[1, -(2**62)]], np.int64))
    names = [o["name"] for o in client.get_model_metadata("echo")["outputs"]]

    result = client.infer("echo", [words, numbers])

    answers = {result.as_numpy(name).dtype.kind: result.as_numpy(name) for name in names}
    assert [b"one", b"\xff\x00two"] == answers["O"].tolist()
    assert [[1, -(2**62)]] == answers["i"].tolist()


def test_an_error_carries_the_servers_words(client: Any) -> None:
    tensor = triton.InferInput("data", [1, 9], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 9), np.float32))
    with pytest.raises(triton.InferenceServerException, match="dimension 1 is 9") as caught:
        client.infer("add-one", [tensor])
    assert "400" == caught.value.status()
