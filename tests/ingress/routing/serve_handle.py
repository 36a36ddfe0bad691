"""A simulated Serve handle, with the replica behind it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast

from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.errors import InferenceFailed, ModelUnavailable
from deployments.inference import ModelStatus
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ingress.routing.connections import ConnectionListener
from deployments.ingress.routing.ray_replicas import RayReplicas
from deployments.transport.arena import ArenaAddress
from deployments.transport.batches import (
    BatchCall,
    BatchItem,
    BatchReply,
    Route,
)
from deployments.transport.connections import serve_connection
from deployments.transport.routing_stats import RoutingStats
from deployments.transport.wire_format import FORMAT, call_of, plain_reply
from tests.loops import until

MEMBER = BatchItem((("x", "FP32", (1,), [b"data"]),), 1, ("y",), 1.0)
CALL = BatchCall("1", ((1, 3, 300, 300),), (MEMBER,), ArenaAddress(1, 2, 3, b"token"))
REPLY = BatchReply(((("y", "BYTES", (1,), [b"answer"]),),))
LOADING = ModelUnavailable("model", "it is being loaded")
FAILED = InferenceFailed("model", "no")
DEPLOYMENT = DeploymentID("model", "app")
NO_REPLICA = DeploymentUnavailableError(DEPLOYMENT)


class Serve:
    """Simulates a Serve handle and the replica behind it."""

    router: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.outcomes: dict[str, Any] = {"infer": REPLY, "status": ModelStatus("LOADING", "")}
        self.over_connection: Any = REPLY
        self.taken: list[Any] = []
        self.attending = 0
        self.attended: asyncio.Task[Any] | None = None
        self.lose_connection = False
        self.broadcasts: list[tuple[Any, ...]] = []
        self.given: dict[str, list[Any]] = {}

    def options(self, method_name: str, _by_reference: bool = True) -> "Method":
        return Method(self, method_name, _by_reference)

    def broadcast(self, method_name: str, *arguments: Any) -> "Replies":
        self.broadcasts.append((method_name, *arguments))
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
            listener, token, _, its_format = arguments
            assert FORMAT == its_format
            return await self.attend(listener, token)
        return outcome

    async def attend(self, listener: str, token: bytes) -> None:
        self.attending += 1
        self.attended = asyncio.current_task()
        try:
            await serve_connection(listener, token, self.answer)
        finally:
            self.attending -= 1

    async def answer(self, call: Any) -> Any:
        self.taken.append(call_of(call))
        if self.lose_connection:
            assert self.attended is not None
            self.attended.cancel()
            await asyncio.sleep(0)
        if isinstance(self.over_connection, Exception):
            raise self.over_connection
        return plain_reply(self.over_connection)

    @property
    def infers(self) -> int:
        return sum(name == "infer" for name, _ in self.calls)


class CountingServe(Serve):
    """Counts the calls in flight at its only replica, as Serve does for its autoscaling."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[ReplicaID] = Counter()
        self.counted_in_calls: list[int] = []
        self.affinity = ShapeAffinity()
        self.affinity.set_replicas({"first": RoutingStats()}, near={"first"})
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


def ray_replicas(serve: Serve, listener: ConnectionListener | None = None) -> RayReplicas:
    return RayReplicas(cast("DeploymentHandle[Any]", serve), listener)


FIRST: Final = Route("first", near=True)


@asynccontextmanager
async def connected(serve: "CountingServe") -> AsyncIterator[RayReplicas]:
    """Replicas with a connection to the first."""
    listener = ConnectionListener()
    replicas = ray_replicas(serve, listener)
    assert FIRST == replicas.route("1", CALL.key)
    await until(lambda: replicas._connection_to(FIRST) is not None)
    yield replicas
    replicas.close()
    await listener.close()
    await until(lambda: 0 == serve.attending)
