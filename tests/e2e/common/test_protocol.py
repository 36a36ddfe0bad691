"""KServe v2 over HTTP against a running server: every route, every kind of answer and refusal."""

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.client import HEADER_LENGTH, binary_request, infer
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ADD_ONE = "/v2/models/add-one/infer"
ROW = {"name": "data", "shape": [1, 10], "datatype": "FP32", "data": list(range(10))}


@pytest.fixture
def http(server: Server) -> Any:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def test_server_metadata(http: httpx.Client) -> None:
    reply = http.get("/v2")

    assert 200 == reply.status_code
    assert {"name", "version", "extensions"} == reply.json().keys()
    assert "binary_tensor_data" in reply.json()["extensions"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_is_an_empty_200(http: httpx.Client, path: str) -> None:
    reply = http.get(path)

    assert (200, b"") == (reply.status_code, reply.content)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_model_metadata_names_open_dimensions_minus_one(http: httpx.Client, version: str) -> None:
    expected = {
        "name": "spots",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [
            {
                "name": "data",
                "datatype": "FP32",
                "shape": [-1, 3, -1, -1],
                "parameters": {"layout": "NCHW"},
            }
        ],
        "outputs": [{"name": "detection_out", "datatype": "FP32", "shape": [1, 1, -1, 7]}],
    }
    assert expected == http.get(f"/v2/models/spots{version}").json()
    assert 200 == http.get(f"/v2/models/spots{version}/ready").status_code


@pytest.mark.parametrize("data", [list(range(10)), [list(range(10))]])
def test_json_in_and_out(http: httpx.Client, data: Any) -> None:
    message = {"id": "seven", "inputs": [{**ROW, "data": data}], "ignored": {"by": "the spec"}}
    expected = {
        "model_name": "add-one",
        "model_version": "1",
        "id": "seven",
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [1, 10], "data": list(range(1, 11))}
        ],
    }
    assert expected == http.post(ADD_ONE, json=message).json()


def test_binary_in_and_out_with_a_batch(server: Server) -> None:
    rows = np.random.default_rng(0).random((5, 10), np.float32)

    assert np.array_equal(rows + 1, infer(server.url, "add-one", {"data": rows})["sum"])


@pytest.mark.parametrize("mode", ["json-to-binary", "binary-to-json"])
def test_the_two_directions_are_independent(http: httpx.Client, mode: str) -> None:
    if mode == "json-to-binary":
        wanted = [{"name": "sum", "parameters": {"binary_data": True}}]
        reply = http.post(ADD_ONE, json={"inputs": [ROW], "outputs": wanted})
        length = int(reply.headers[HEADER_LENGTH])
        got = np.frombuffer(reply.content[length:], np.float32).tolist()
    else:
        head = {"inputs": [{"name": "data", "shape": [1, 10], "datatype": "FP32"}]}
        raw = json.dumps(head).encode()
        body = raw + np.arange(10, dtype=np.float32).tobytes()
        reply = http.post(ADD_ONE, content=body, headers={HEADER_LENGTH: str(len(raw))})
        got = reply.json()["outputs"][0]["data"]
    assert list(range(1, 11)) == got


def test_gzip_body(http: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"inputs": [ROW]}).encode())
    reply = http.post(ADD_ONE, content=body, headers={"Content-Encoding": "gzip"})

    assert list(range(1, 11)) == reply.json()["outputs"][0]["data"]


def test_int64_keeps_its_full_range_and_strings_their_bytes(http: httpx.Client) -> None:
    numbers = [[-(2**63), 2**63 - 1, 0]]
    words = ["", "straße", "\u0000x"]
    message = {
        "inputs": [
            {"name": "words", "shape": [3], "datatype": "BYTES", "data": words},
            {"name": "numbers", "shape": [1, 3], "datatype": "INT64", "data": numbers},
        ]
    }
    reply = http.post("/v2/models/echo/infer", json=message).json()

    outputs = {entry["datatype"]: entry for entry in reply["outputs"]}
    assert numbers[0] == outputs["INT64"]["data"]
    assert words == outputs["BYTES"]["data"]


def test_only_wanted_outputs_come_back(http: httpx.Client) -> None:
    message = {
        "inputs": [
            {"name": "words", "shape": [0], "datatype": "BYTES", "data": []},
            {"name": "numbers", "shape": [2, 0], "datatype": "INT64", "data": []},
        ]
    }
    both = http.post("/v2/models/echo/infer", json=message).json()["outputs"]
    for wanted in both:
        reply = http.post(
            "/v2/models/echo/infer", json={**message, "outputs": [{"name": wanted["name"]}]}
        )
        assert [wanted] == reply.json()["outputs"]


def test_concurrent_rows_are_stacked_and_come_back_to_their_own(server: Server) -> None:
    import asyncio

    rows = np.random.default_rng(1).random((400, 10), np.float32)

    async def all_at_once() -> list[bytes]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def one(row: Any) -> bytes:
                body, headers = binary_request({"data": row[None]})
                reply = await client.post(ADD_ONE, content=body, headers=headers)
                return reply.content[int(reply.headers[HEADER_LENGTH]) :]

            return await asyncio.gather(*map(one, rows))

    before = server.statistics("add-one")
    answers = asyncio.run(all_at_once())
    after = server.statistics("add-one")

    assert [row.tobytes() for row in rows + 1] == answers
    assert after["stacked_batches"] > before["stacked_batches"]


def refused(reply: httpx.Response, status: int, *words: str) -> None:
    assert status == reply.status_code, reply.text
    assert {"error"} == reply.json().keys()
    for word in words:
        assert word in reply.json()["error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "dota"}, ["'dota'", "data"]),
        ({"datatype": "FP64"}, ["FP64", "FP32"]),
        ({"datatype": "FP31"}, ["FP31"]),
        ({"shape": [10]}, ["1 dimensions", "2"]),
        ({"shape": [2, 5]}, ["dimension 1 is 5", "10"]),
        ({"shape": [65, 10], "data": [0] * 650}, ["dimension 0 is 65", "1:64"]),
        ({"data": [1, 2]}, ["2 values", "10"]),
        ({"data": [1] * 9 + ["x"]}, ["FP32"]),
        ({"data": [1] * 9 + [1e39]}, ["FP32", "1e+39"]),
        ({"shape": [-1, 10]}, ["[-1, 10]"]),
        ({"shape": "1,10"}, ["1,10"]),
    ],
)
def test_what_the_client_did_wrong_is_a_400_with_the_reason(
    http: httpx.Client, change: dict[str, Any], words: list[str]
) -> None:
    refused(http.post(ADD_ONE, json={"inputs": [{**ROW, **change}]}), 400, *words)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"[]", {}),
        (b'{"inputs": 3}', {}),
        (b'{"inputs": []}', {}),
        (b"{}", {HEADER_LENGTH: "99999999999"}),
        (b"{}", {HEADER_LENGTH: "-1"}),
        (b"{}", {HEADER_LENGTH: "two"}),
        (b"not gzip", {"Content-Encoding": "gzip"}),
        (b"{}", {"Content-Encoding": "br"}),
    ],
)
def test_malformed_bodies_are_a_400(
    http: httpx.Client, body: bytes, headers: dict[str, str]
) -> None:
    refused(http.post(ADD_ONE, content=body, headers=headers), 400)


def test_a_shape_the_model_cannot_take_is_a_400_and_the_next_one_is_fine(
    http: httpx.Client, server: Server
) -> None:
    """The policy lets any height through; only OpenVINO finds that no row is no picture.

    The next one may well be of the shape of the one before, or have the shape for the first time.
    """
    url = "/v2/models/spots/infer"
    rows = -1 if server.statistics("spots")["stacking"] else 1
    for size in (16, 16, 17, 18, 19, 20):
        entry = {"name": "data", "datatype": "FP32", "shape": [1, 3, size, size]}
        fine = {"inputs": [{**entry, "data": [0] * 3 * size**2}]}
        assert 200 == http.post(url, json=fine).status_code
        empty = {"inputs": [{**entry, "shape": [1, 3, 0, 4], "data": []}]}
        refused(http.post(url, json=empty), 400, f"[{rows},3,0,4]")
        assert 200 == http.post(url, json=fine).status_code


@pytest.mark.parametrize(
    "path",
    ["/v2/models/nobody", "/v2/models/spots/versions/2", "/v2/models/spots/nothing", "/v3", "/"],
)
def test_what_is_not_there_is_a_404(http: httpx.Client, path: str) -> None:
    refused(http.get(path), 404)


def test_a_wrong_method_is_a_405(http: httpx.Client) -> None:
    refused(http.get(ADD_ONE), 405, "GET", "POST")
    refused(http.post("/v2/health/live"), 405)


def test_a_body_over_the_limit_is_a_413_that_names_it(http: httpx.Client) -> None:
    reply = http.post(ADD_ONE, content=b" " * (32 * 2**20 + 1))

    refused(reply, 413, "limits.body_bytes", str(32 * 2**20))


def test_a_bomb_is_a_413(http: httpx.Client) -> None:
    bomb = gzip.compress(b" " * (64 * 2**20))
    reply = http.post(ADD_ONE, content=bomb, headers={"Content-Encoding": "gzip"})

    refused(reply, 413, "limits.body_bytes")


def test_an_unavailable_model_says_why_and_the_server_is_ready(http: httpx.Client) -> None:
    for reply in (http.get("/v2/models/missing"), http.get("/v2/models/missing/ready")):
        refused(reply, 503, "missing", "127.0.0.1:9", "refused")
    refused(http.post("/v2/models/missing/infer", json={"inputs": [ROW]}), 503, "refused")
    assert 200 == http.get("/v2/health/ready").status_code


def test_a_deadline_that_passes_is_a_504(http: httpx.Client) -> None:
    shape = [1, 9, 4]
    entry = {"name": "data", "datatype": "FP32", "shape": shape, "data": [1] * 36}
    message = {"inputs": [entry], "parameters": {"timeout": 1000}}

    refused(http.post("/v2/models/slow/infer", json=message), 504, "0.001 s")
