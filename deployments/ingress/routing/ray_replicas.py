"""A model's replicas, reached through a Serve handle or over a lane."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.serve._private.common import ReplicaID
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments import timing
from deployments.errors import ModelUnavailable, VersionChanged
from deployments.inference import ModelStatus, ShapeKey, shape_number
from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ingress.routing.connections import (
    ConnectionListener,
    ConnectionLost,
    ConnectionPool,
)
from deployments.ingress.routing.liveness import LivenessWatch, ReplicaUnresponsive, unless_silent
from deployments.observability.shape_records import ShapesReport
from deployments.transport.batches import (
    ANY_ROUTE,
    INLINE_BYTES,
    BatchCall,
    BatchReply,
    Referenced,
    Route,
    Unreachable,
    carried_bytes,
)
from deployments.transport.wire_format import FORMAT, plain_call, reply_of

_OFF_LOOP_BYTES: Final = 1 << 20
_REMEMBERED_KEYS: Final = 4096


class RayReplicas:
    """A model's deployment behind a Serve handle.

    Batches for a replica on this node take a lane where there is one, all else the handle.
    """

    def __init__(self, handle: DeploymentHandle[Any], meeting: ConnectionListener | None) -> None:
        self._status = handle.options(method_name="status")
        self._by_message = handle.options(method_name="infer", _by_reference=False)
        self._by_reference = handle.options(method_name="infer", _by_reference=True)
        self._attend = handle.options(method_name="attend", _by_reference=False)
        self._answers = {
            by_reference: handle.options(method_name="answers", _by_reference=by_reference)
            for by_reference in (False, True)
        }
        self._handle = handle
        self._serve = _Serve(self._status)
        self._meeting = meeting
        self._lanes: dict[Route, ConnectionPool] = {}
        self._numbers: dict[tuple[str, ShapeKey], int] = {}

    async def status(self) -> ModelStatus:
        return await asyncio.wait_for(self._call(self._status), timing.CONTROL_S)

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        return await self._told("statistics", timing.CONTROL_S, version)

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        return await self._told("shapes", timing.CONTROL_S, version)

    async def look(self, timeout_s: float) -> bool:
        return any(await self._told("look", timeout_s))

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        await self._told("set_unloaded", timeout_s, unloaded)

    def route(self, revision: str, key: ShapeKey, avoid: Route = ANY_ROUTE) -> Route:
        affinity = self._serve.affinity
        if affinity is None:
            return ANY_ROUTE
        return affinity.route(self._number(revision, key), avoid.replica)

    def usable(self, route: Route) -> bool:
        affinity = self._serve.affinity
        return route.replica is None or affinity is None or affinity.usable(route.replica)

    def sent(self, route: Route, revision: str, key: ShapeKey) -> None:
        self._serve.count(requests=1)
        if route.replica is not None and (affinity := self._serve.affinity) is not None:
            affinity.sent(route.replica, self._number(revision, key))

    def answered(self, route: Route) -> None:
        self._serve.count(requests=-1)
        if route.replica is not None and (affinity := self._serve.affinity) is not None:
            affinity.answered(route.replica)

    async def infer(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        self._serve.count(batches=1)
        try:
            reply = await self._inferred(call, route, by_reference)
        except ReplicaDied:
            self._lost(route, timing.FAILED_REPLICA_S)
            raise
        except ReplicaUnresponsive:
            self._lost(route, timing.UNRESPONSIVE_REPLICA_S)
            raise ReplicaDied("it hangs") from None
        finally:
            self._serve.count(batches=-1)
        if isinstance(reply, BatchReply):
            if _is_refused(reply):
                # It is loading, or has not loaded this version yet.
                self._lost(route, timing.FAILED_REPLICA_S)
            elif route.replica is not None and (affinity := self._serve.affinity) is not None:
                affinity.told(route.replica, reply.load)
        return reply

    def close(self) -> None:
        for lanes in self._lanes.values():
            lanes.close()

    async def _inferred(
        self, call: BatchCall, route: Route, by_reference: bool
    ) -> BatchReply | Unreachable:
        """Raises ReplicaDied, ReplicaUnresponsive."""
        reply: BatchReply | Unreachable
        alive = partial(self._alive, route, by_reference)
        if by_reference:
            reply = await unless_silent(self._inferred_by_reference(call, route), alive)
        elif (lanes := self._lanes_of(route)) is None or (lane := lanes.idle()) is None:
            reply = await unless_silent(self._call(self._by_message, call, route), alive)
        else:
            try:
                with self._serve.counting_at(route.replica, 1), LivenessWatch(alive, lane.close):
                    reply = reply_of(await lane.call(plain_call(call)))
            except ConnectionLost:
                raise ReplicaDied("its connection ended") from None
        return reply

    async def _inferred_by_reference(self, call: BatchCall, route: Route) -> Any:
        return await self._call(self._by_reference, await _referenced(call), route)

    def _lanes_of(self, route: Route) -> ConnectionPool | None:
        if self._meeting is None or not route.near:
            return None
        lanes = self._lanes.get(route)
        if lanes is None:
            for gone in [known for known in self._lanes if not self._named(known)]:
                self._lanes.pop(gone).drop()
            lanes = self._lanes[route] = ConnectionPool(
                self._meeting, partial(self._attended, route), partial(self._named, route)
            )
        return lanes

    def _named(self, route: Route) -> bool:
        """Whether Serve still names the replica of the route."""
        affinity = self._serve.affinity
        return affinity is None or route.replica in affinity

    async def _alive(self, route: Route, by_reference: bool) -> bool:
        """Whether the replica of the route, any if it names none, gives a sign of life in the way
        that the call went. While there is none at all, calls wait for the next."""
        if (affinity := self._serve.affinity) is not None and not len(affinity):
            return True
        # A task of its own: whatever becomes of it is no sign, its being cancelled included.
        sign = asyncio.ensure_future(self._call(self._answers[by_reference], route))
        try:
            await asyncio.wait((sign,), timeout=timing.SIGN_OF_LIFE_S)
            return sign.done() and not sign.cancelled() and not sign.exception() and sign.result()
        finally:
            sign.cancel()

    def _lost(self, route: Route, seconds: float) -> None:
        """Others are taken for so long, until Serve knows more."""
        if (lanes := self._lanes.get(route)) is not None:
            lanes.drop()
        if route.replica is not None and (affinity := self._serve.affinity) is not None:
            affinity.lost(route.replica, seconds)

    def _number(self, revision: str, key: ShapeKey) -> int:
        number = self._numbers.get((revision, key))
        if number is None:
            if len(self._numbers) >= _REMEMBERED_KEYS:
                self._numbers.clear()
            number = self._numbers[revision, key] = shape_number(revision, key)
        return number

    async def _attended(self, route: Route, name: str, token: bytes) -> str | None:
        # Serve counts it as a call that is under way. A lane is idle most of its time.
        with self._serve.counting_at(route.replica, -1):
            reason: str | None = await self._call(self._attend, name, token, route, FORMAT)
            return reason

    async def _told(self, method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        """What each replica answers. Raises TimeoutError, ReplicaDied."""
        try:
            return await asyncio.wait_for(self._told_by_all(method, arguments), timeout_s)
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error

    async def _told_by_all(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Serve knows of no replica for a moment while the settings of the only one change."""
        while True:
            with suppress(DeploymentUnavailableError):
                return list(await self._handle.broadcast(method, *arguments).results_async())
            await asyncio.sleep(timing.REPLICA_POLL_S)

    async def _call(self, handle: DeploymentHandle[Any], *arguments: Any) -> Any:
        try:
            return await handle.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error


class _Serve:
    """What Serve's own router of a handle has for us, and has no public way to.

    Where it is not as in Ray 2.60 with RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0, replicas are
    Serve's choice and its autoscaling sees calls instead of requests.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        router = getattr(handle, "_router", None)
        # Elsewhere it runs in a thread of its own, and what it has may not be touched from here.
        here = _is_on_this_loop(router)
        self._router = getattr(router, "_asyncio_router", None) if here else None
        self._metrics = getattr(self._router, "_metrics_manager", None)
        self._requests = 0
        self._batches = 0
        self._counted = 0

    @property
    def affinity(self) -> ShapeAffinity | None:
        """None if another router was configured, or Serve has not said yet which it is."""
        # Serve pickles the router's class by value: `ShapeRouter` here is another one.
        affinity = getattr(getattr(self._router, "_request_router", None), "affinity", None)
        return affinity if isinstance(affinity, ShapeAffinity) else None

    def count(self, *, requests: int = 0, batches: int = 0) -> None:
        """Serve counts each batch under way, as a call; here it is told of the other requests, so
        that its autoscaling sees how many there are."""
        self._requests += requests
        self._batches += batches
        others = max(0, self._requests - self._batches)
        if self._metrics is not None:
            self._metrics.num_queued_requests += others - self._counted
        self._counted = others

    @contextmanager
    def counting_at(self, replica: str | None, calls: int) -> Iterator[None]:
        """Meanwhile so many more are under way at the replica than Serve has counted there."""
        self._count_at(replica, calls)
        try:
            yield
        finally:
            self._count_at(replica, -calls)

    def _count_at(self, replica: str | None, calls: int) -> None:
        if replica is not None and self._metrics is not None:
            counts = self._metrics.num_requests_sent_to_replicas
            counts[ReplicaID(replica, self._metrics._deployment_id)] += calls


def _is_on_this_loop(router: object) -> bool:
    try:
        return getattr(router, "_asyncio_loop", None) is asyncio.get_running_loop()
    except RuntimeError:
        return False


async def _referenced(call: BatchCall) -> BatchCall | Referenced:
    nbytes = carried_bytes(call.members)
    if nbytes <= INLINE_BYTES:
        return call
    put: Any = ray.put
    off_loop = nbytes > _OFF_LOOP_BYTES
    members = await asyncio.to_thread(put, call.members) if off_loop else put(call.members)
    return Referenced(call._replace(members=()), members)


def _is_refused(reply: BatchReply) -> bool:
    return all(isinstance(a, ModelUnavailable | VersionChanged) for a in reply.members)
