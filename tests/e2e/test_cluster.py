"""Three nodes, each in namespaces of its own: any of them serves, and what dies costs little."""

import asyncio
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from benchmarks.crowd import CLIENTS, MODEL, ask_grpc, ask_http
from benchmarks.failures import (
    Cluster,
    Event,
    Happens,
    kill_haproxy,
    kill_node,
    running,
    scale,
    signal_replica,
    under_load,
    update_code,
    watched,
)
from benchmarks.nodes import why_not
from deployments.settings import INGRESS_NAME

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif((reason := why_not()) is not None, reason=f"a cluster of nodes {reason}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


async def event(cluster: Cluster, happens: Happens) -> Event:
    async with under_load(cluster, pause_s=0.02) as account:
        return await watched(account, "", happens)


async def test_every_node_serves_both_protocols(cluster: Cluster) -> None:
    """The head too, which has no replicas."""
    assert 3 == len({address.http for address in cluster.addresses})
    for address in cluster.addresses:
        for ask in (ask_http, ask_grpc):
            assert ["right"] * 4 == [await ask(address, number) for number in range(4)]


async def test_replicas_are_spread_over_the_workers(cluster: Cluster) -> None:
    assert await asyncio.to_thread(cluster.is_spread)


async def test_a_model_replica_that_dies_costs_no_request(cluster: Cluster) -> None:
    seen = await event(cluster, partial(signal_replica, cluster, MODEL, signal.SIGKILL))
    assert (0, 0) == (seen.failed, seen.wrong), seen


async def test_an_ingress_replica_that_dies_costs_what_was_under_way_in_it(
    cluster: Cluster,
) -> None:
    seen = await event(cluster, partial(signal_replica, cluster, INGRESS_NAME, signal.SIGKILL))
    assert (0, 0) == (seen.again, seen.wrong), seen
    assert seen.failed <= CLIENTS, seen


async def test_a_haproxy_that_dies_costs_what_was_under_way_in_it(cluster: Cluster) -> None:
    seen = await event(cluster, partial(kill_haproxy, cluster, cluster.nodes.workers[0]))
    assert (0, 0) == (seen.again, seen.wrong), seen
    assert seen.failed <= CLIENTS, seen


async def test_new_code_costs_no_request(cluster: Cluster) -> None:
    seen = await event(cluster, partial(update_code, cluster))
    assert (0, 0) == (seen.failed, seen.wrong), seen


async def test_a_worker_that_dies_costs_what_was_under_way_on_it(cluster: Cluster) -> None:
    """The other worker has all replicas then, and had one of each all the time."""
    assert await asyncio.to_thread(cluster.is_spread)
    seen = await event(cluster, partial(kill_node, cluster, cluster.nodes.workers[1]))
    assert seen.wrong == 0, seen
    assert seen.failed < 2 * CLIENTS, seen


async def test_fewer_replicas_cost_no_request(cluster: Cluster) -> None:
    seen = await event(cluster, partial(scale, cluster, 1))
    assert (0, 0) == (seen.failed, seen.wrong), seen
