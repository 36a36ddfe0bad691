"""A served model in the ingress: its status, its queues and its replicas."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from deployments import timing
from deployments.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    QueueFull,
    ServingError,
    VersionChanged,
    VersionNotFound,
)
from deployments.inference import ModelInfo, ModelStatus, ShapeKey
from deployments.ingress.dataplane.batching import (
    SIDE_BY_SIDE_IN_FLIGHT,
    STACKED_IN_FLIGHT,
    Batcher,
)
from deployments.ingress.dataplane.deadlines import Deadlines
from deployments.ingress.dataplane.input_binding import InputBindings
from deployments.ingress.dataplane.queued_requests import (
    QueuedRequest,
    bytes_outside_arena,
    members,
    placed,
)
from deployments.ingress.dataplane.replicas import ModelReplicas, ReplicaDied
from deployments.ingress.dataplane.status_cache import StatusCache
from deployments.observability.logs import log, request_ids, set_request_ids
from deployments.observability.metrics import (
    BATCH_ROWS,
    HANDOFF_SECONDS,
    QUEUE_SECONDS,
    SHARED_MEMORY_FALLBACKS,
    SILENT,
    Telemetry,
)
from deployments.observability.shape_records import ShapesReport
from deployments.observability.tracing import begun
from deployments.settings import Limits
from deployments.tensors import Tensor
from deployments.transport.arena import Arena, ArenaAddress, ArenaUnreachable, PeerArenas
from deployments.transport.batches import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    BatchCall,
    BatchReply,
    Route,
    Unreachable,
    unpack,
)

logger: Final = logging.getLogger("ray.serve")
T = TypeVar("T")
_Key: TypeAlias = tuple[str, ShapeKey, Route]
"""The revision, the shape and the replica of a batch."""

_BY_REFERENCE_AFTER_FAILURE: Final = 256
_OFF_LOOP_BYTES: Final = 4 << 20


class ServedModel:
    """A model: validates requests, batches them by shape key, and sends batches to its replicas."""

    def __init__(
        self,
        name: str,
        replicas: ModelReplicas,
        limits: Limits,
        arena: Arena | None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self.name = name
        self._replicas = replicas
        self._limits = limits
        self._arena = arena
        self._telemetry = telemetry
        self._arrangements = InputBindings(limits.batch_rows)
        self._peers = PeerArenas()
        self._known = StatusCache(replicas.status)
        self._by_reference: dict[Route, int] = {}
        self._deadlines = Deadlines()
        self._batcher: Batcher[_Key, QueuedRequest, list[Tensor]] | None = None

    async def status(self) -> ModelStatus:
        """The status that the model's replicas reported last."""
        return await self._known.get()

    async def info(self, version: str | None = None) -> ModelInfo:
        """The inputs and outputs of a version. Raises ModelUnavailable, VersionNotFound."""
        status = await self._known.get()
        highest = status.info
        if highest is None:
            raise ModelUnavailable(self.name, status.reason)
        if version is None:
            return highest
        found = next((v for v in status.versions if v.version == version), None)
        if found is None or found.state == "UNLOADING":
            raise VersionNotFound(self.name, version, highest.versions)
        if found.info is None:
            raise ModelUnavailable(self.name, f"version {version}: {found.reason or found.state}")
        return found.info

    async def changed_info(self, version: str | None) -> ModelInfo:
        """What `info` gives, after asking a replica again, because one had another version."""
        await self._known.after_asking()
        return await self.info(version)

    async def statistics(self, version: str | None = None) -> list[dict[str, Any]]:
        """The counters of every replica. Raises ModelUnavailable."""
        return await self._called(self._replicas.statistics(version))

    async def look(self) -> bool:
        """Looks for new, changed and removed versions now; returns whether there were any.

        Raises ModelUnavailable.
        """
        changed = await self._called(self._replicas.look(self._limits.timeout_s))
        await self._known.after_asking()
        return changed

    async def load(self) -> None:
        """Loads the model again after `unload`. Raises ModelUnavailable, also if loading fails."""
        await self._called(self._replicas.set_unloaded(False, self._limits.timeout_s))
        status = await self._known.after_asking()
        if status.info is None:
            raise ModelUnavailable(self.name, status.reason)

    async def unload(self) -> None:
        """Unloads all versions once requests in flight are answered. Raises ModelUnavailable."""
        await self._called(self._replicas.set_unloaded(True, self._limits.timeout_s))
        await self._known.after_asking(believed=True)

    async def _called(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            return await call
        except (ReplicaDied, TimeoutError):
            raise ModelUnavailable(self.name, "not all of its replicas answer") from None

    async def shapes(self, version: str) -> list[ShapesReport]:
        """The reports of replicas that serve the version. Raises ModelUnavailable without any."""
        replies = await self._called(self._replicas.shapes(version))
        reports = [report for report in replies if report is not None]
        if not reports:
            raise ModelUnavailable(self.name, f"none of its replicas has loaded version {version}")
        return reports

    def check_queue(self) -> None:
        """Raises QueueFull; called before a picture is decoded, too, to save that work."""
        waiting = self._batcher.waiting if self._batcher is not None else 0
        if waiting >= self._limits.queue_length:
            raise QueueFull(self.name, waiting, self._limits.queue_length)

    async def infer(
        self,
        info: ModelInfo,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        timeout_s: float,
        elapsed_s: float = 0.0,
    ) -> list[Tensor]:
        """The requested outputs (all if empty). Raises the ServingErrors that a client can cause.

        Of the request's `timeout_s`, receiving and decoding took `elapsed_s`.
        """
        arranged, key, rows = self._arrangements.of(info, tensors)
        info.check_outputs(outputs)
        if self._batcher is None:
            self._batcher = Batcher(self._send, info.max_batch_rows)
        self._batcher.max_rows = info.max_batch_rows
        self.check_queue()
        left_s = timeout_s - elapsed_s
        if left_s <= 0:
            raise DeadlineExceeded(self.name, timeout_s)
        now = time.monotonic()
        request_id = next(iter(request_ids()), "")
        traced = begun(now, self.name, info.version, rows, key)
        item = QueuedRequest(arranged, rows, tuple(outputs), now, now + left_s, request_id, traced)
        route = self._replicas.route(info.revision, key)
        self._replicas.sent(route, info.revision, key)
        in_flight = STACKED_IN_FLIGHT if info.stacks(key) else SIDE_BY_SIDE_IN_FLIGHT
        result = self._batcher.submit((info.revision, key, route), rows, item, in_flight)
        late = partial(DeadlineExceeded, self.name, timeout_s)
        self._deadlines.add(result, item.deadline, late)
        try:
            return await result
        finally:
            self._deadlines.remove(result)
            self._replicas.answered(route)

    async def close(self) -> None:
        if self._batcher is not None:
            await self._batcher.close()
        self._deadlines.close()

    async def _send(
        self, key: _Key, items: Sequence[QueuedRequest]
    ) -> Sequence[list[Tensor] | Exception]:
        """Sends one batch; if the replica dies, once more to another, as inference is idempotent.

        Gives up a replica that hangs once all requests of the batch have timed out, so that the
        shape's next batch can leave.
        """
        now = time.monotonic()
        set_request_ids(*(item.request_id for item in items))
        self._telemetry.observe(BATCH_ROWS, sum(item.rows for item in items), self.name)
        for item in items:
            self._telemetry.observe(QUEUE_SECONDS, now - item.arrived, self.name)
        traces = [item.trace for item in items if item.trace is not None]
        for traced in traces:
            traced.left(now)
        last = max(item.deadline for item in items) - now + timing.REPLY_GRACE_S
        try:
            async with asyncio.timeout(last):
                return await self._answered(*key, items)
        except TimeoutError:
            raise ModelUnavailable(self.name, "its replica does not answer") from None
        finally:
            for traced in traces:
                traced.back(time.monotonic())

    async def _answered(
        self, revision: str, key: ShapeKey, route: Route, items: Sequence[QueuedRequest]
    ) -> Sequence[list[Tensor] | Exception]:
        if not self._replicas.usable(route):  # the replica was lost while these were queued
            route = self._replicas.route(revision, key, avoid=route)
        try:
            answers = await self._ask(revision, key, route, items)
            if not all(isinstance(answer, ModelUnavailable) for answer in answers):
                return answers
            log(logging.WARNING, "model '%s': a replica is still loading, retrying", self.name)
        except ReplicaDied as first:
            log(logging.WARNING, "model '%s': %s, retrying on another replica", self.name, first)
        another = self._replicas.route(revision, key, avoid=route)
        try:
            return await self._ask(revision, key, another, items)
        except ReplicaDied:
            raise ModelUnavailable(
                self.name, "two of its replicas failed during this request"
            ) from None

    async def _ask(
        self, revision: str, key: ShapeKey, route: Route, items: Sequence[QueuedRequest]
    ) -> Sequence[list[Tensor] | Exception]:
        arena, fallback = self._usable_arena(route), "unreachable"
        if arena is not None:
            reply = await self._shared(arena, revision, key, route, items)
            if isinstance(reply, BatchReply):
                try:
                    return self._answers(reply, reply.arena)
                except ArenaUnreachable as error:
                    self._note_unreachable(route, str(error))
            elif not reply.lasting:
                fallback = "full"
        if self._arena is not None and route.near:
            self._telemetry.count(SHARED_MEMORY_FALLBACKS, fallback)
        call = BatchCall(revision, key, members(items, None), None)
        reply = await self._round_trip(call, route, by_reference=True)
        if isinstance(reply, Unreachable):
            return [InferenceFailed(self.name, reply.reason)] * len(items)
        return self._answers(reply, None)

    def _usable_arena(self, route: Route) -> Arena | None:
        """The arena; None for a replica on another node.

        Also None for a while after a replica on this node could not reach this process's memory.
        """
        left = self._by_reference.pop(route, 0)
        if left > 1:
            self._by_reference[route] = left - 1
        return None if left or not route.near else self._arena

    async def _shared(
        self,
        arena: Arena,
        revision: str,
        key: ShapeKey,
        route: Route,
        items: Sequence[QueuedRequest],
    ) -> BatchReply | Unreachable:
        elsewhere = bytes_outside_arena(items, arena)
        if elsewhere > INLINE_BYTES:  # else each tensor is small
            if elsewhere > _OFF_LOOP_BYTES:
                items = await asyncio.to_thread(placed, items, arena)
            else:
                items = placed(items, arena)
            if bytes_outside_arena(items, arena) > MESSAGE_BYTES:
                return Unreachable("the arena is full", lasting=False)
        call = BatchCall(revision, key, members(items, arena), arena.address)
        reply = await self._round_trip(call, route, by_reference=False)
        if isinstance(reply, Unreachable) and reply.lasting:
            self._note_unreachable(route, reply.reason)
        return reply

    async def _round_trip(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        left = time.monotonic()
        reply = await self._replicas.infer(call, route, by_reference=by_reference)
        if isinstance(reply, BatchReply):
            handoff_s = max(0.0, time.monotonic() - left - reply.took_s)
            self._telemetry.observe(HANDOFF_SECONDS, handoff_s, self.name)
        return reply

    def _note_unreachable(self, route: Route, reason: str) -> None:
        logger.warning(
            "model '%s': a replica cannot use shared memory (%s), "
            "sending its next %d batches by Ray's object store",
            self.name,
            reason,
            _BY_REFERENCE_AFTER_FAILURE,
        )
        self._by_reference[route] = _BY_REFERENCE_AFTER_FAILURE

    def _answers(
        self, reply: BatchReply, arena: ArenaAddress | None
    ) -> Sequence[list[Tensor] | Exception]:
        """Unpacks the answers of a reply. Raises ArenaUnreachable."""
        answers: list[list[Tensor] | Exception] = []
        for member in reply.members:
            if isinstance(member, ServingError):
                self._notice(member)
                answers.append(member)
            else:
                answers.append([unpack(t, arena, self._peers, leased=True) for t in member])
        return answers

    def _notice(self, error: ServingError) -> None:
        """Refreshes the status if a replica is loading or has another version."""
        if isinstance(error, ModelUnavailable | VersionChanged):
            self._known.refresh()
