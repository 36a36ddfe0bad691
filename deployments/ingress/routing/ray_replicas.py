"""A model's replicas, reached through a Serve handle or over a connection."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments import timing
from deployments.errors import ModelUnavailable, VersionChanged
from deployments.inference import ModelStatus, ShapeKey, shape_number
from deployments.ingress.dataplane.replicas import ReplicaDied
from deployments.ingress.routing.affinity import ShapeAffinity
from deployments.ingress.routing.connections import (
    CallFailed,
    Connection,
    ConnectionListener,
    ConnectionLost,
    ReplicaConnection,
)
from deployments.ingress.routing.liveness import LivenessWatch, ReplicaUnresponsive, unless_silent
from deployments.observability.shape_records import ShapesReport
from deployments.ray_private import HandleRouter, method_of
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

    It connects to each replica on this node when the replica appears, and sends batches over the
    connection. All other calls use the handle.
    """

    def __init__(self, handle: DeploymentHandle[Any], listener: ConnectionListener | None) -> None:
        self._status = handle.options(method_name="status")
        self._by_message = method_of(handle, "infer", by_reference=False)
        self._by_reference = method_of(handle, "infer", by_reference=True)
        self._attend = method_of(handle, "attend", by_reference=False)
        self._answers = {
            by_reference: method_of(handle, "answers", by_reference=by_reference)
            for by_reference in (False, True)
        }
        self._handle = handle
        self._router = HandleRouter(self._status)
        self._load = _ReportedLoad(self._router)
        self._listener = listener
        self._connections: dict[str, ReplicaConnection] = {}
        self._numbers: dict[tuple[str, ShapeKey], int] = {}

    async def status(self) -> ModelStatus:
        return await asyncio.wait_for(self._call(self._status), timing.CONTROL_S)

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        return await self._broadcast("statistics", timing.CONTROL_S, version)

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        return await self._broadcast("shapes", timing.CONTROL_S, version)

    async def look(self, timeout_s: float) -> bool:
        return any(await self._broadcast("look", timeout_s))

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        await self._broadcast("set_unloaded", timeout_s, unloaded)

    def route(self, revision: str, key: ShapeKey, avoid: Route = ANY_ROUTE) -> Route:
        affinity = self._affinity
        if affinity is None:
            return ANY_ROUTE
        return affinity.route(self._shape_number(revision, key), avoid.replica)

    def usable(self, route: Route) -> bool:
        affinity = self._affinity
        return route.replica is None or affinity is None or affinity.usable(route.replica)

    def sent(self, route: Route, revision: str, key: ShapeKey) -> None:
        self._load.count(requests=1)
        if route.replica is not None and (affinity := self._affinity) is not None:
            affinity.sent(route.replica, self._shape_number(revision, key))

    def answered(self, route: Route) -> None:
        self._load.count(requests=-1)
        if route.replica is not None and (affinity := self._affinity) is not None:
            affinity.answered(route.replica)

    async def infer(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        self._load.count(batches=1)
        try:
            reply = await self._inferred(call, route, by_reference)
        except ReplicaDied:
            self._lost(route, timing.FAILED_REPLICA_S)
            raise
        except ReplicaUnresponsive:
            self._lost(route, timing.UNRESPONSIVE_REPLICA_S)
            raise ReplicaDied("it hangs") from None
        finally:
            self._load.count(batches=-1)
        if isinstance(reply, BatchReply):
            if _is_refused(reply):
                # It is loading, or has not loaded this version yet.
                self._lost(route, timing.FAILED_REPLICA_S)
            elif route.replica is not None and (affinity := self._affinity) is not None:
                affinity.reported(route.replica, reply.load)
        return reply

    def close(self) -> None:
        """Closes all connections at once."""
        self._listener = None
        for connection in self._connections.values():
            connection.close()

    @property
    def _affinity(self) -> ShapeAffinity | None:
        """The router's affinity. None with another router, or before Serve has created it."""
        affinity = self._router.attribute("affinity", ShapeAffinity)
        if affinity is not None:
            affinity.follow(self._connect)
        return affinity

    def _connect(self, near: set[str]) -> None:
        """Connects to these replicas, and retires the connections to others."""
        for gone in self._connections.keys() - near:
            self._connections.pop(gone).retire()
        if self._listener is not None:
            for name in near - self._connections.keys():
                attend = partial(self._attend_connection, Route(name, near=True))
                self._connections[name] = ReplicaConnection(self._listener, attend)

    async def _inferred(
        self, call: BatchCall, route: Route, by_reference: bool
    ) -> BatchReply | Unreachable:
        """Raises ReplicaDied, ReplicaUnresponsive."""
        alive = partial(self._alive, route, by_reference)
        reply: BatchReply | Unreachable
        if by_reference:
            reply = await unless_silent(self._inferred_by_reference(call, route), alive)
        elif (connection := self._connection_to(route)) is None:
            reply = await unless_silent(self._call(self._by_message, call, route), alive)
        else:
            try:
                with self._counting_at(route.replica, 1), LivenessWatch(alive, connection.close):
                    reply = reply_of(await connection.call(plain_call(call)))
            except ConnectionLost:
                raise ReplicaDied("its connection ended") from None
            except CallFailed:
                raise ReplicaDied("the call failed") from None
        return reply

    async def _inferred_by_reference(self, call: BatchCall, route: Route) -> Any:
        return await self._call(self._by_reference, await _referenced(call), route)

    def _connection_to(self, route: Route) -> Connection | None:
        """The connection for a route, None if the batch has to use the handle."""
        kept = self._connections.get(route.replica) if route.replica is not None else None
        return None if kept is None else kept.usable

    async def _alive(self, route: Route, by_reference: bool) -> bool:
        """Whether the route's replica, or any if it names none, gives a sign of life.

        The question goes the same way as the call. Without any replica it is true, because calls
        wait for the next one.
        """
        if (affinity := self._affinity) is not None and not len(affinity):
            return True
        # A task of its own, because any failure of it, also a cancellation, means no sign of life.
        sign = asyncio.ensure_future(self._call(self._answers[by_reference], route))
        try:
            await asyncio.wait((sign,), timeout=timing.SIGN_OF_LIFE_S)
            return sign.done() and not sign.cancelled() and not sign.exception() and sign.result()
        finally:
            sign.cancel()

    def _lost(self, route: Route, seconds: float) -> None:
        """Avoids the route's replica for `seconds`, until Serve knows its state."""
        if route.replica is not None and (affinity := self._affinity) is not None:
            affinity.lost(route.replica, seconds)

    def _shape_number(self, revision: str, key: ShapeKey) -> int:
        number = self._numbers.get((revision, key))
        if number is None:
            if len(self._numbers) >= _REMEMBERED_KEYS:
                self._numbers.clear()
            number = self._numbers[revision, key] = shape_number(revision, key)
        return number

    async def _attend_connection(self, route: Route, name: str, token: bytes) -> str | None:
        # Subtracts the call that Serve counts as in flight: a connection is idle most of the time.
        with self._counting_at(route.replica, -1):
            reason: str | None = await self._call(self._attend, name, token, route, FORMAT)
            return reason

    @contextmanager
    def _counting_at(self, replica: str | None, calls: int) -> Iterator[None]:
        """Adds `calls` to those that Serve counts as in flight at the replica."""
        if replica is not None:
            self._router.count_sent(replica, calls)
        try:
            yield
        finally:
            if replica is not None:
                self._router.count_sent(replica, -calls)

    async def _broadcast(self, method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        """Calls a method of every replica. Raises TimeoutError, ReplicaDied."""
        try:
            return await asyncio.wait_for(self._broadcast_when_known(method, arguments), timeout_s)
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error

    async def _broadcast_when_known(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Calls a method of every replica, and retries while Serve knows none.

        That happens for a moment while the settings of the only replica change.
        """
        while True:
            with suppress(DeploymentUnavailableError):
                return list(await self._handle.broadcast(method, *arguments).results_async())
            await asyncio.sleep(timing.REPLICA_POLL_S)

    async def _call(self, handle: DeploymentHandle[Any], *arguments: Any) -> Any:
        try:
            return await handle.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error


class _ReportedLoad:
    """Reports the number of requests to Serve's autoscaling.

    Serve counts each batch in flight as one call. This adds the other requests.
    """

    def __init__(self, router: HandleRouter) -> None:
        self._router = router
        self._requests = 0
        self._batches = 0
        self._added = 0

    def count(self, *, requests: int = 0, batches: int = 0) -> None:
        self._requests += requests
        self._batches += batches
        others = max(0, self._requests - self._batches)
        self._router.count_queued(others - self._added)
        self._added = others


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
