import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.arena import ArenaAddress
from deployments.crossing import (
    ANY_ROUTE,
    BatchCall,
    BatchReply,
    Member,
    Referenced,
    Route,
    Unreachable,
)
from deployments.errors import InferenceFailed, ModelUnavailable
from deployments.inference import ModelStatus
from deployments.ingress import replicas as module
from deployments.ingress import silence
from deployments.ingress.affinity import ShapeAffinity
from deployments.ingress.lanes import MeetingPoint
from deployments.ingress.model_replicas import ReplicaDied
from deployments.ingress.replicas import RayReplicas
from deployments.lane_messages import FORMAT, call_of, plain_reply
from deployments.lanes import attend
from deployments.routing_facts import RoutingFacts
from deployments.shape_records import CacheBounds, ShapesReport
from tests.ingress.lane_replicas import KEY, Clock
from tests.loops import on_both_loops, until

MEMBER = Member((("x", "FP32", (1,), [b"data"]),), 1, ("y",), 1.0)
CALL = BatchCall("1", KEY, (MEMBER,), ArenaAddress(1, 2, 3, b"token"))
REPLY = BatchReply(((("y", "BYTES", (1,), [b"answer"]),),))
LOADING = ModelUnavailable("model", "it is being loaded")
FAILED = InferenceFailed("model", "no")
DEPLOYMENT = DeploymentID("model", "app")
NOBODY = DeploymentUnavailableError(DEPLOYMENT)


class Serve:
    """Stands for a Serve handle and the replica behind it."""

    router: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.outcomes: dict[str, Any] = {"infer": REPLY, "status": ModelStatus("LOADING", "")}
        self.over_lane: Any = REPLY
        self.taken: list[Any] = []
        self.attending = 0
        self.told_all: list[tuple[Any, ...]] = []
        self.given: dict[str, list[Any]] = {}

    def options(self, method_name: str, _by_reference: bool = True) -> "Method":
        return Method(self, method_name, _by_reference)

    def broadcast(self, method_name: str, *arguments: Any) -> "Replies":
        self.told_all.append((method_name, *arguments))
        return Replies(self.call(method_name, True, *arguments))

    async def call(self, name: str, by_reference: bool, *arguments: Any) -> Any:
        self.calls.append((name, by_reference))
        self.given.setdefault(name, []).append(arguments[0] if arguments else None)
        outcome = self.outcomes.get(name)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, asyncio.Future):
            return await outcome
        if name == "attend":
            meeting, token, _, lane_format = arguments
            assert FORMAT == lane_format
            return await self.attend(meeting, token)
        return outcome

    async def attend(self, meeting: str, token: bytes) -> None:
        self.attending += 1
        try:
            await attend(meeting, token, self.answer)
        finally:
            self.attending -= 1

    async def answer(self, call: Any) -> Any:
        self.taken.append(call_of(call))
        if isinstance(self.over_lane, Exception):
            raise self.over_lane
        return plain_reply(self.over_lane)

    @property
    def infers(self) -> int:
        return sum(name == "infer" for name, _ in self.calls)


class CountingServe(Serve):
    """Counts the calls under way at its only replica, as Serve does for its autoscaling."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[ReplicaID] = Counter()
        self.counted_in_calls: list[int] = []
        self.affinity = ShapeAffinity()
        self.affinity.set_replicas({"first": RoutingFacts()}, near={"first"})
        metrics = SimpleNamespace(
            num_queued_requests=0,
            num_requests_sent_to_replicas=self.counts,
            _deployment_id=DEPLOYMENT,
        )
        router = SimpleNamespace(
            _metrics_manager=metrics, _request_router=SimpleNamespace(affinity=self.affinity)
        )
        self.router = SimpleNamespace(
            _asyncio_loop=asyncio.get_running_loop(), _asyncio_router=router
        )

    async def call(self, name: str, by_reference: bool, *arguments: Any) -> Any:
        self.counts[ReplicaID("first", DEPLOYMENT)] += 1
        try:
            return await super().call(name, by_reference, *arguments)
        finally:
            self.counts[ReplicaID("first", DEPLOYMENT)] -= 1

    async def answer(self, call: Any) -> Any:
        self.counted_in_calls.append(self.counted)
        return await super().answer(call)

    @property
    def counted(self) -> int:
        assert set(self.counts) <= {ReplicaID("first", DEPLOYMENT)}
        return self.counts.total()


class Method:
    def __init__(self, serve: Serve, name: str, by_reference: bool) -> None:
        self.remote: Callable[..., Awaitable[Any]] = lambda *arguments: serve.call(
            name, by_reference, *arguments
        )
        self._router = serve.router


class Replies:
    def __init__(self, reply: Awaitable[Any]) -> None:
        self._reply = reply

    async def results_async(self) -> Any:
        return await self._reply


def ray_replicas(serve: Serve, meeting: MeetingPoint | None = None) -> RayReplicas:
    return RayReplicas(cast("DeploymentHandle[Any]", serve), meeting)


@asynccontextmanager
async def with_a_lane(serve: Serve, route: Route = ANY_ROUTE) -> AsyncIterator[RayReplicas]:
    """Replicas that have a lane for the key, after two calls through the handle."""
    meeting = MeetingPoint()
    replicas = ray_replicas(serve, meeting)
    for _ in range(2):
        assert REPLY == await replicas.infer(CALL, route, by_reference=False)
    lanes = replicas._lanes[route]
    await until(lambda: 1 == len(lanes))
    assert [] == serve.taken
    yield replicas
    replicas.close()
    await meeting.close()
    await until(lambda: 0 == serve.attending)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@on_both_loops
async def test_without_lanes_all_calls_take_the_handle_by_message_or_by_reference() -> None:
    serve = Serve()
    replicas = ray_replicas(serve)
    for by_reference in (False, False, False, True):
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=by_reference)
    assert [("infer", False)] * 3 + [("infer", True)] == serve.calls
    replicas.close()


@on_both_loops
async def test_a_batch_takes_a_lane_where_there_is_one() -> None:
    serve = Serve()
    async with with_a_lane(serve) as replicas:
        for _ in range(5):
            assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 2 == serve.infers
        assert [CALL] * 5 == serve.taken
        assert isinstance(serve.taken[0], BatchCall)
        assert [("attend", False)] == [call for call in serve.calls if call[0] == "attend"]


@on_both_loops
async def test_serve_counts_lanes_at_their_replica_while_they_are_used() -> None:
    serve, route = CountingServe(), Route("first", near=True)
    async with with_a_lane(serve, route) as replicas:
        assert (1, 0) == (serve.attending, serve.counted)
        await replicas.infer(CALL, route, by_reference=False)
        assert ([1], 0) == (serve.counted_in_calls, serve.counted)
        serve.over_lane = ZeroDivisionError()
        with pytest.raises(ReplicaDied):
            await replicas.infer(CALL, route, by_reference=False)
        assert ([1, 1], 0) == (serve.counted_in_calls, serve.counted)


@on_both_loops
async def test_lanes_to_a_replica_that_serve_does_not_name_any_more_end() -> None:
    serve, route = CountingServe(), Route("first", near=True)
    async with with_a_lane(serve, route):
        serve.affinity.set_replicas({"second": RoutingFacts()}, near={"second"})
        await until(lambda: 0 == serve.attending)
        assert 0 == serve.counted


@on_both_loops
async def test_calls_by_reference_never_take_a_lane() -> None:
    serve = Serve()
    async with with_a_lane(serve) as replicas:
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=True)
        assert [] == serve.taken
        assert ("infer", True) == serve.calls[-1]


@pytest.mark.parametrize(
    "reply",
    [Unreachable("full", lasting=False), BatchReply((FAILED,)), BatchReply((LOADING, FAILED))],
    ids=["unreachable", "failed", "partly-loading"],
)
@on_both_loops
async def test_other_replies_come_over_the_lane_too_and_leave_it(reply: Any) -> None:
    serve = Serve()
    serve.over_lane = reply
    async with with_a_lane(serve) as replicas:
        for _ in range(2):
            got = await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
            assert type(reply) is type(got)
            assert str(reply) == str(got)
        assert 2 == len(serve.taken)


@on_both_loops
async def test_after_a_replica_that_is_loading_serve_chooses_who_gets_the_next_try() -> None:
    serve = Serve()
    serve.over_lane = BatchReply((LOADING, LOADING))
    async with with_a_lane(serve) as replicas:
        reply = await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert isinstance(reply, BatchReply)
        assert [LOADING.message] * 2 == [cast("Any", member).message for member in reply.members]
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 1 == len(serve.taken)
        assert 3 == serve.infers


@on_both_loops
async def test_a_lane_that_is_lost_is_a_replica_that_died_and_the_next_try_takes_the_handle() -> (
    None
):
    serve = Serve()
    serve.over_lane = ZeroDivisionError()
    async with with_a_lane(serve) as replicas:
        with pytest.raises(ReplicaDied, match="its connection ended"):
            await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
        assert 1 == len(serve.taken)


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
        Member((("x", "FP32", (1, n), np.zeros((1, n), np.float32)),), 1, (), 1.0)
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
    monkeypatch.setattr(silence, "PATIENCE_S", 0.01)
    monkeypatch.setattr(module, "_SIGN_OF_LIFE_S", 0.01)
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
    monkeypatch.setattr(silence, "PATIENCE_S", 0.01)
    serve = Serve()
    coming = asyncio.get_running_loop().create_future()
    serve.outcomes |= {"infer": coming, "answers": False}
    replicas = ray_replicas(serve)
    nobody = ShapeAffinity()
    monkeypatch.setattr(type(replicas._serve), "affinity", nobody)
    asking = asyncio.ensure_future(replicas.infer(CALL, ANY_ROUTE, by_reference=False))
    await asyncio.sleep(0.05)
    coming.set_result(REPLY)
    assert REPLY == await asking
    assert 0 == serve.calls.count(("answers", False))


@on_both_loops
async def test_a_replica_that_takes_long_and_is_alive_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(silence, "PATIENCE_S", 0.01)
    serve = Serve()
    compiling = asyncio.get_running_loop().create_future()
    serve.outcomes |= {"infer": compiling, "answers": True}
    asking = asyncio.ensure_future(ray_replicas(serve).infer(CALL, ANY_ROUTE, by_reference=False))
    await until(lambda: serve.calls.count(("answers", False)) >= 3)
    compiling.set_result(REPLY)
    assert REPLY == await asking


@on_both_loops
async def test_replicas_that_cannot_attend_are_reached_through_the_handle() -> None:
    serve = Serve()
    serve.outcomes["attend"] = RayActorError()
    meeting = MeetingPoint()
    replicas = ray_replicas(serve, meeting)
    for _ in range(5):
        assert REPLY == await replicas.infer(CALL, ANY_ROUTE, by_reference=False)
    await until(lambda: not replicas._lanes[ANY_ROUTE]._calls)
    replicas.close()
    await meeting.close()
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
    assert [("shapes", "3")] == serve.told_all


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
    serve.outcomes["statistics"] = NOBODY
    asking = asyncio.ensure_future(ray_replicas(serve).statistics(None))
    await until(lambda: len(serve.told_all) >= 2)
    serve.outcomes["statistics"] = ({"requests": 1},)
    assert [{"requests": 1}] == await asking


@on_both_loops
async def test_without_a_replica_nobody_is_asked_for_ever() -> None:
    serve = Serve()
    serve.outcomes["statistics"] = NOBODY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CONTROL_S", 0.1)
        with pytest.raises(asyncio.TimeoutError):
            await ray_replicas(serve).statistics(None)
    assert len(serve.told_all) >= 2


@on_both_loops
async def test_status_and_statistics_are_not_waited_for_for_long() -> None:
    serve = Serve()
    silence = asyncio.get_running_loop().create_future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CONTROL_S", 0.01)
        statistics = partial(ray_replicas(serve).statistics, None)
        for ask in (ray_replicas(serve).status, statistics):
            serve.outcomes = {"status": silence, "statistics": silence}
            with pytest.raises(asyncio.TimeoutError):
                await ask()
            silence = asyncio.get_running_loop().create_future()
