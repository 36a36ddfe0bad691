import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deployments.errors import MetricsUnavailable
from deployments.ingress.http.metrics_endpoint import MetricsEndpoint, merged

ONE = """\
# HELP ray_object_store_memory Not ours.
# TYPE ray_object_store_memory gauge
ray_object_store_memory{} 1.0
# HELP ray_anyshape_requests_total Requests.
# TYPE ray_anyshape_requests_total counter
ray_anyshape_requests_total{node="1"} 3.0
# HELP ray_anyshape_queue_seconds Queue.
# TYPE ray_anyshape_queue_seconds histogram
ray_anyshape_queue_seconds_bucket{node="1",le="+Inf"} 2.0
ray_anyshape_queue_seconds_count{node="1"} 2.0
"""
OTHER = """\
# HELP ray_anyshape_requests_total Requests.
# TYPE ray_anyshape_requests_total counter
ray_anyshape_requests_total{node="2"} 4.0
"""


def test_only_anyshape_s_metrics_of_all_nodes_are_merged() -> None:
    expected = """\
# HELP ray_anyshape_requests_total Requests.
# TYPE ray_anyshape_requests_total counter
ray_anyshape_requests_total{node="1"} 3.0
ray_anyshape_requests_total{node="2"} 4.0
# HELP ray_anyshape_queue_seconds Queue.
# TYPE ray_anyshape_queue_seconds histogram
ray_anyshape_queue_seconds_bucket{node="1",le="+Inf"} 2.0
ray_anyshape_queue_seconds_count{node="1"} 2.0
"""
    assert expected == merged([ONE, OTHER])


@asynccontextmanager
async def agent(text: str) -> AsyncIterator[tuple[str, list[int]]]:
    """An agent's URL, and one entry for each time it was asked."""
    asked: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(1)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics", asked


async def test_concurrent_requests_ask_all_agents_once() -> None:
    async with agent(ONE) as (one, asked_one), agent(OTHER) as (other, asked_other):
        metrics = MetricsEndpoint(lambda: [one, other])

        texts = await asyncio.gather(*(metrics.text() for _ in range(5)))

    assert {merged([ONE, OTHER])} == set(texts)
    assert [1] == asked_one == asked_other


async def test_an_agent_that_does_not_answer_is_left_out() -> None:
    async with agent(ONE) as (one, _):
        assert merged([ONE]) == await MetricsEndpoint(lambda: ["http://127.0.0.1:9/", one]).text()


async def test_no_agent_at_all_is_an_error() -> None:
    with pytest.raises(MetricsUnavailable, match="none of Ray's 1 metrics agents answers"):
        await MetricsEndpoint(lambda: ["http://127.0.0.1:9/"]).text()
