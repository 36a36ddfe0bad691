"""A shape that was never seen: one compile, the others do not wait, memory does not grow."""

import asyncio
import time
from collections.abc import Callable

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.client import Array, infer, infer_async
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def picture(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((1, 3, height, width), np.float32) * 255


def compiles(server: Server, model: str) -> int:
    return int(server.statistics(model)["compiles"])


async def many(server: Server, model: str, tensors: list[Array], at_once: int) -> list[Array]:
    """The detections of all tensors, in order, with so many requests under way."""
    places = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:

        async def one(tensor: Array) -> Array:
            async with places:
                return (await infer_async(client, model, {"data": tensor}))["detection_out"]

        return list(await asyncio.gather(*map(one, tensors)))


async def test_a_hundred_requests_for_one_new_shape_cost_one_compile(server: Server) -> None:
    before = compiles(server, "spots-blocking")

    answers = await many(server, "spots-blocking", [picture(90, 110)] * 100, at_once=100)

    assert 100 == len(answers)
    assert 1 == len({answer.tobytes() for answer in answers})
    assert before + 1 == compiles(server, "spots-blocking")


@pytest.mark.parametrize("model", ["spots", "spots-blocking"])
async def test_two_alternating_shapes_cost_two_compiles_at_most(server: Server, model: str) -> None:
    before = compiles(server, model)
    pictures = [picture(60, 80), picture(72, 48)]

    answers = await many(server, model, pictures * 500, at_once=8)

    assert 1000 == len(answers)
    assert compiles(server, model) <= before + 2


async def test_a_known_shape_is_answered_while_another_compiles(server: Server) -> None:
    known = np.ones((1, 1, 4), np.float32)
    infer(server.url, "slow", {"data": known})
    before = server.statistics("slow")["compiles"]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        new = asyncio.create_task(
            infer_async(client, "slow", {"data": np.ones((1, 7, 4), np.float32)})
        )
        answered = 0
        while not new.done():
            reply = await infer_async(client, "slow", {"data": known})
            assert known.shape == next(iter(reply.values())).shape
            for path in ("", "/ready", "/stats"):
                assert 200 == (await client.get(f"/v2/models/slow{path}")).status_code
            for path in ("live", "ready"):
                assert 200 == (await client.get(f"/v2/health/{path}")).status_code
            answered += not new.done()
        assert (1, 7, 4) == next(iter((await new).values())).shape

    assert before + 1 == server.statistics("slow")["compiles"]
    assert answered >= 2, "the known shape waited for the new one"


@pytest.mark.parametrize(
    ("model", "bound", "count"),
    [("spots", 16, 1000), ("spots-blocking", 4, 100)],  # each of these is a compilation
)
async def test_very_many_shapes_are_answered_within_bounded_memory(
    server: Server, model: str, bound: int, count: int
) -> None:
    sizes = [(h, w) for h in range(32, 64) for w in range(32, 64)][:count]
    begin = 3 * count // 10
    resident = resident_bytes(server, model)

    first = await many(server, model, [picture(*size) for size in sizes[:begin]], at_once=4)
    settled = resident()
    rest = await many(server, model, [picture(*size) for size in sizes[begin:]], at_once=4)
    grown = resident() / settled

    assert count == len(first) + len(rest)
    assert server.statistics(model)["compiled_shapes"] <= bound
    assert grown < 1.15, f"memory grew by {grown:.2f} over {len(rest)} further shapes"


def resident_bytes(server: Server, model: str) -> Callable[[], int]:
    (pid,) = server.replica_pids(model)
    process = psutil.Process(pid)
    return lambda: int(process.memory_info().rss)


async def test_new_shapes_in_the_background_are_not_waited_for(server: Server) -> None:
    """In background mode a request is never in the line for a compile, so none is made for it."""
    before = server.statistics("spots")
    started = time.monotonic()

    await many(server, "spots", [picture(100 + n, 100) for n in range(20)], at_once=1)

    after = server.statistics("spots")
    assert before["compiles"] == after["compiles"]
    assert before["served_dynamic"] + 20 == after["served_dynamic"]
    assert time.monotonic() - started < 30
