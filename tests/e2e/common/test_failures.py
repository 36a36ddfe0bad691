"""What dies or leaves while the server works takes nothing else along."""

import asyncio
import json
import os
import re
import signal
import socket
import time

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.client import Array, binary_request, infer_async
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def rows(count: int) -> list[Array]:
    return list(np.random.default_rng(count).random((count, 1, 10), np.float32))


async def test_a_model_replica_killed_under_load_costs_no_request(server: Server) -> None:
    (pid,) = server.replica_pids("add-one")
    answered = 0
    killed = asyncio.Event()

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def work(row: Array) -> None:
            nonlocal answered
            for _ in range(40):
                reply = await infer_async(client, "add-one", {"data": row})
                assert np.array_equal(row + 1, reply["sum"])
                answered += 1
                if answered == 100:
                    os.kill(pid, signal.SIGKILL)
                    killed.set()

        await asyncio.gather(*map(work, rows(8)))

    assert killed.is_set()
    assert 320 == answered
    assert [pid] != server.replica_pids("add-one")


async def test_a_client_that_leaves_does_not_take_its_batch_mates_along(server: Server) -> None:
    """Half of a crowd hangs up in the middle of a slow compile; the other half is answered."""
    tensor = np.ones((1, 11, 4), np.float32)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as staying,
        httpx.AsyncClient(base_url=server.url, timeout=60) as leaving,
    ):
        stay = [asyncio.create_task(infer_async(staying, "slow", {"data": tensor})) for _ in "1234"]
        leave = [asyncio.create_task(infer_async(leaving, "slow", {"data": tensor})) for _ in "12"]
        compiling = 0
        while not compiling:
            reply = await staying.get("/v2/models/slow/stats")
            compiling = reply.json()["replicas"][0]["compiling"]
        for task in leave:
            task.cancel()
        answers = await asyncio.gather(*stay)

    assert [(1, 11, 4)] * 4 == [next(iter(answer.values())).shape for answer in answers]


def sent_and_left(server: Server, body: bytes, headers: dict[str, str], part: int) -> None:
    """Sends so many bytes of a body, and hangs up."""
    host, port = server.url.removeprefix("http://").split(":")
    head = ["POST /v2/models/spots/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body[:part])


@pytest.mark.timeout(90)
def test_a_client_that_hangs_up_before_its_answer_is_told_of_as_such(server: Server) -> None:
    body, headers = binary_request({"data": np.zeros((1, 3, 1200, 1200), np.float32)})
    for _ in range(5):
        sent_and_left(server, body, headers, len(body))
    left = re.compile(r'anyshape_requests_total{[^\n]*code="499"[^\n]*model="spots"')
    while not left.search(httpx.get(f"{server.url}/metrics", timeout=30).text):
        time.sleep(0.5)  # the metrics are passed on every second


def test_a_client_that_hangs_up_inside_its_body_is_forgotten(server: Server) -> None:
    body, headers = binary_request({"data": np.zeros((1, 3, 400, 400), np.float32)})
    for _ in range(20):
        sent_and_left(server, body, headers, 50_000)

    reply = httpx.post(
        f"{server.url}/v2/models/spots/infer", content=body, headers=headers, timeout=60
    )
    assert 200 == reply.status_code


def test_nothing_of_ours_lies_in_dev_shm(server: Server) -> None:
    """Shared memory has no name that a killed process could leave behind."""
    assert [] == [name for name in os.listdir("/dev/shm") if "anyshape" in name]
    maps = [m.path for p in server.replica_pids("spots") for m in psutil.Process(p).memory_maps()]
    assert any("memfd:anyshape" in path for path in maps), "no shared memory is used"


def test_hostile_paths_do_not_reach_the_log_or_the_answer(server: Server) -> None:
    reply = httpx.get(f"{server.url}/v2/models/%0d%0aSet-Cookie:%20x")

    assert 404 == reply.status_code
    assert "set-cookie" not in reply.headers
    assert json.loads(reply.content)["error"]
