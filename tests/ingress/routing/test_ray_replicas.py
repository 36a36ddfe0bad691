import asyncio
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from deployments import timing
from deployments.inference import ModelStatus
from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ingress.routing.connections import ConnectionListener
from deployments.observability.shape_records import CacheBounds, ShapesReport
from deployments.transport.batches import (
    ANY_ROUTE,
    BatchItem,
    Referenced,
)
from tests.ingress.routing.serve_handle import (
    CALL,
    FIRST,
    NO_REPLICA,
    REPLY,
    CountingServe,
    Serve,
    ray_replicas,
)
from tests.loops import on_both_loops, until


@on_both_loops
async def test_without_connections_all_calls_take_the_handle_by_message_or_by_reference() -> None:
    serve = Serve()
    replicas = ray_replicas(serve)
    for by_reference in (False, False, False, True):
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=by_reference)
    assert [("infer", False)] * 3 + [("infer", True)] == serve.calls
    replicas.close()


@pytest.mark.parametrize("error", [RayActorError(), RayServeException("no")], ids=str)
@on_both_loops
async def test_what_ray_raises_is_a_replica_that_died(error: Exception) -> None:
    serve = Serve()
    serve.outcomes = {"infer": error, "status": error}
    replicas = ray_replicas(serve)
    for by_reference in (True, False):
        with pytest.raises(ReplicaDied, match=type(error).__name__):
            await replicas.infer(CALL, ANY_ROUTE, by_reference=by_reference)
    with pytest.raises(ReplicaDied):
        await replicas.status()


@on_both_loops
async def test_large_arrays_cross_as_an_object_that_the_replica_fetches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for all members; small ones go along with the call."""
    objects: list[Any] = []

    def put(value: Any) -> Any:
        objects.append(value)
        future = asyncio.get_running_loop().create_future()
        future.set_result(value)
        return future

    monkeypatch.setattr(ray, "put", put)
    small, large = (
        BatchItem((("x", "FP32", (1, n), np.zeros((1, n), np.float32)),), 1, (), 1.0)
        for n in (10, 20_000)
    )
    serve = Serve()
    replicas = ray_replicas(serve)
    for members in ((small, small), (small, large)):
        await replicas.infer(CALL._replace(members=members), ANY_ROUTE, by_reference=True)
    first, second = serve.given["infer"]
    assert first.members == (small, small)
    assert [(small, large)] == objects
    assert isinstance(second, Referenced)
    assert () == second.call.members
    assert (small, large) == (await second.fetched()).members


@on_both_loops
@pytest.mark.parametrize("how", ["silent", "another", "dead", "broken"])
async def test_a_replica_that_hangs_has_died(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no sign of life, or another one does: Serve has taken it out of its routing."""
    monkeypatch.setattr(timing, "LIVENESS_S", 0.01)
    monkeypatch.setattr(timing, "SIGN_OF_LIFE_S", 0.01)
    never = asyncio.get_running_loop().create_future
    serve = Serve()
    signs = {
        "silent": never(),
        "another": False,
        "dead": RayActorError(),
        "broken": ZeroDivisionError(),
    }
    serve.outcomes |= {"infer": never(), "answers": signs[how]}
    with pytest.raises(ReplicaDied, match="it hangs"):
        await ray_replicas(serve).infer(CALL, ANY_ROUTE, by_reference=False)


@on_both_loops
async def test_while_there_is_no_replica_calls_wait_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "LIVENESS_S", 0.01)
    serve = Serve()
    coming = asyncio.get_running_loop().create_future()
    serve.outcomes |= {"infer": coming, "answers": False}
    replicas = ray_replicas(serve)
    nobody = ShapeAffinity()
    monkeypatch.setattr(type(replicas), "_affinity", nobody)
    asking = asyncio.ensure_future(replicas.infer(CALL, ANY_ROUTE, by_reference=False))
    await asyncio.sleep(0.05)
    coming.set_result(REPLY)
    assert REPLY == await asking
    assert 0 == serve.calls.count(("answers", False))


@on_both_loops
async def test_a_replica_that_takes_long_and_is_alive_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "LIVENESS_S", 0.01)
    serve = Serve()
    compiling = asyncio.get_running_loop().create_future()
    serve.outcomes |= {"infer": compiling, "answers": True}
    asking = asyncio.ensure_future(ray_replicas(serve).infer(CALL, ANY_ROUTE, by_reference=False))
    await until(lambda: serve.calls.count(("answers", False)) >= 3)
    compiling.set_result(REPLY)
    assert REPLY == await asking


@on_both_loops
async def test_replicas_that_cannot_attend_are_reached_through_the_handle() -> None:
    serve = CountingServe()
    serve.outcomes["attend"] = RayActorError()
    listener = ConnectionListener()
    replicas = ray_replicas(serve, listener)
    for _ in range(5):
        assert REPLY == await replicas.infer(CALL, FIRST, by_reference=False)
    assert ("attend", False) in serve.calls
    replicas.close()
    await listener.close()
    assert 5 == serve.infers


@on_both_loops
async def test_status_and_statistics_are_the_replicas() -> None:
    serve = Serve()
    serve.outcomes["statistics"] = ({"requests": 1}, {"requests": 2})
    replicas = ray_replicas(serve)
    assert ModelStatus("LOADING", "") == await replicas.status()
    assert [{"requests": 1}, {"requests": 2}] == await replicas.statistics("1")


@on_both_loops
async def test_shapes_of_a_version_are_asked_of_all_replicas() -> None:
    serve, reports = Serve(), [ShapesReport(0.0, CacheBounds(16, 8)), None]
    serve.outcomes["shapes"] = tuple(reports)
    assert reports == await ray_replicas(serve).shapes("3")
    assert [("shapes", "3")] == serve.broadcasts


@on_both_loops
async def test_a_replica_that_dies_while_all_are_asked_has_died() -> None:
    serve = Serve()
    serve.outcomes = {"shapes": RayActorError(), "statistics": RayActorError()}
    replicas = ray_replicas(serve)
    for ask in (lambda: replicas.shapes("3"), lambda: replicas.statistics(None)):
        with pytest.raises(ReplicaDied, match="RayActorError"):
            await ask()


@on_both_loops
async def test_without_a_replica_for_a_moment_the_next_one_is_asked() -> None:
    """Serve takes a replica out of its routing while its settings change."""
    serve = Serve()
    serve.outcomes["statistics"] = NO_REPLICA
    asking = asyncio.ensure_future(ray_replicas(serve).statistics(None))
    await until(lambda: len(serve.broadcasts) >= 2)
    serve.outcomes["statistics"] = ({"requests": 1},)
    assert [{"requests": 1}] == await asking


@on_both_loops
async def test_without_a_replica_nobody_is_asked_for_ever() -> None:
    serve = Serve()
    serve.outcomes["statistics"] = NO_REPLICA
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "CONTROL_S", 0.1)
        with pytest.raises(asyncio.TimeoutError):
            await ray_replicas(serve).statistics(None)
    assert len(serve.broadcasts) >= 2


@on_both_loops
async def test_status_and_statistics_are_not_waited_for_for_long() -> None:
    serve = Serve()
    silence = asyncio.get_running_loop().create_future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "CONTROL_S", 0.01)
        statistics = partial(ray_replicas(serve).statistics, None)
        for ask in (ray_replicas(serve).status, statistics):
            serve.outcomes = {"status": silence, "statistics": silence}
            with pytest.raises(asyncio.TimeoutError):
                await ask()
            silence = asyncio.get_running_loop().create_future()
