"""The served models as the ingress sees them: their status, their queues, their replicas."""

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from deployments.arena import Arena, ArenaAddress, ArenaUnreachable, PeerArenas
from deployments.crossing import (
    MESSAGE_BYTES,
    BatchCall,
    BatchReply,
    Member,
    Unreachable,
    inline_bytes,
    into_arena,
    pack,
    unpack,
)
from deployments.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    QueueFull,
    ServingError,
    VersionNotFound,
)
from deployments.inference import ModelInfo, ModelStatus, ShapeKey
from deployments.ingress.batching import Batcher
from deployments.settings import Limits
from deployments.shape_records import ShapesReport
from deployments.tensors import Tensor

logger: Final = logging.getLogger("ray.serve")
T = TypeVar("T")

_NOT_ALL_ANSWER: Final = "not all of its replicas answer"
_STATUS_S: Final = 1.0
_SILENCES: Final = 4
_REFUSALS: Final = 4
_START_S: Final = 120.0
_BY_REFERENCE_AFTER_FAILURE: Final = 256
_GRACE_S: Final = 5.0
_OFF_LOOP_BYTES: Final = 4 << 20


class ReplicaDied(Exception):
    """Raised when a replica died over a call, or Ray could not bring the call to its end."""


class ModelReplicas(Protocol):
    """The model's deployment, however it is reached."""

    async def status(self) -> ModelStatus:
        """Raises TimeoutError when no replica answers soon."""
        ...

    async def statistics(self) -> list[dict[str, Any]]:
        """The counters of every replica."""
        ...

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        """What every replica knows of the shapes of a version; None from those without it."""
        ...

    async def infer(self, call: BatchCall, *, by_reference: bool) -> BatchReply | Unreachable:
        """Raises ReplicaDied."""
        ...


@dataclass(frozen=True, slots=True)
class _Item:
    tensors: tuple[Tensor, ...]
    rows: int
    outputs: tuple[str, ...]
    deadline: float


class ServedModel:
    """One model: validates against it, batches by shape key, hands batches to its replicas."""

    def __init__(
        self, name: str, replicas: ModelReplicas, limits: Limits, arena: Arena | None
    ) -> None:
        self.name = name
        self._replicas = replicas
        self._limits = limits
        self._arena = arena
        self._peers = PeerArenas()
        self._status = ModelStatus("LOADING", "its replicas have not answered yet")
        self._status_until = 0.0
        self._silences = 0
        self._refusals = 0
        self._starting_until = time.monotonic() + _START_S
        self._refreshing: asyncio.Task[ModelStatus] | None = None
        self._calls_by_reference = 0
        self._batcher: Batcher[tuple[str, ShapeKey], _Item, list[Tensor]] | None = None

    async def status(self) -> ModelStatus:
        """What the model's replicas last said; asked again after a second, by one task for all.

        Once a model has answered, nobody waits for its next answer: it may be busy.
        """
        if time.monotonic() >= self._status_until:
            self._start_refresh()
        if self._status.info is None and self._refreshing is not None:
            await asyncio.shield(self._refreshing)
        return self._status

    async def info(self, version: str | None = None) -> ModelInfo:
        """Raises ModelUnavailable, VersionNotFound."""
        status = self._status if self._status.info else await self.status()
        if status.info is None:
            raise ModelUnavailable(self.name, status.reason)
        if version is not None and version not in status.info.versions:
            raise VersionNotFound(self.name, version, status.info.versions)
        return status.info

    async def statistics(self) -> list[dict[str, Any]]:
        """Raises ModelUnavailable."""
        try:
            return await self._replicas.statistics()
        except (ReplicaDied, TimeoutError, asyncio.TimeoutError):
            raise ModelUnavailable(self.name, _NOT_ALL_ANSWER) from None

    async def shapes(self, version: str) -> list[ShapesReport]:
        """From every replica that serves the version, at least one. Raises ModelUnavailable."""
        try:
            replies = await self._replicas.shapes(version)
        except (ReplicaDied, TimeoutError, asyncio.TimeoutError):
            raise ModelUnavailable(self.name, _NOT_ALL_ANSWER) from None
        reports = [report for report in replies if report is not None]
        if not reports:
            raise ModelUnavailable(self.name, f"none of its replicas has loaded version {version}")
        return reports

    def check_queue(self) -> None:
        """Raises QueueFull, worth knowing before a picture is decoded for nothing."""
        waiting = self._batcher.waiting if self._batcher is not None else 0
        if waiting >= self._limits.queue_length:
            raise QueueFull(self.name, waiting, self._limits.queue_length)

    async def infer(
        self,
        info: ModelInfo,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        timeout_s: float,
        spent_s: float = 0.0,
    ) -> list[Tensor]:
        """The wanted outputs (all when empty). Raises the ServingErrors a client can cause.

        Of the request's whole time, `timeout_s`, receiving and decoding it took `spent_s`.
        """
        arranged = info.arrange(tensors)
        info.check_outputs(outputs)
        key, rows = info.key_and_rows(arranged, self._limits.batch_rows)
        if self._batcher is None:
            self._batcher = Batcher(self._send, info.max_batch_rows)
        self.check_queue()
        left_s = timeout_s - spent_s
        if left_s <= 0:
            raise DeadlineExceeded(self.name, timeout_s)
        item = _Item(arranged, rows, tuple(outputs), time.monotonic() + left_s)
        result = self._batcher.submit((info.version, key), rows, item)
        late = DeadlineExceeded(self.name, timeout_s)
        # Instead of `wait_for`, which costs every request a task before Python 3.12.
        timer = asyncio.get_running_loop().call_later(left_s, _end_with, result, late)
        try:
            return await result
        finally:
            timer.cancel()

    async def close(self) -> None:
        if self._batcher is not None:
            await self._batcher.close()

    def _start_refresh(self) -> None:
        if self._refreshing is None:
            # A fresh context: it must not end with the request that happens to be first.
            self._refreshing = contextvars.Context().run(asyncio.create_task, self._refresh())

    async def _refresh(self) -> ModelStatus:
        try:
            status = await self._replicas.status()
            self._silences, self._starting_until = 0, 0.0
            # One of several replicas may still be loading while the others serve.
            self._refusals = self._refusals + 1 if status.info is None else 0
            if status.info is not None or self._status.info is None or self._refusals >= _REFUSALS:
                self._status = status
        except (ReplicaDied, TimeoutError, asyncio.TimeoutError):
            self._silences += 1
            if self._silences >= _SILENCES and time.monotonic() >= self._starting_until:
                self._status = ModelStatus("UNAVAILABLE", "none of its replicas answers")
        finally:
            self._status_until = time.monotonic() + _STATUS_S
            self._refreshing = None
        return self._status

    async def _send(
        self, version_and_key: tuple[str, ShapeKey], items: Sequence[_Item]
    ) -> Sequence[list[Tensor] | Exception]:
        """Sends one batch. Inference is idempotent: if the replica dies, another gets it, once.

        A replica that hangs is given up when nobody can wait for it any more, so that the
        shape's next batch can leave.
        """
        last = max(item.deadline for item in items) - time.monotonic() + _GRACE_S
        try:
            return await _within(last, self._answered(*version_and_key, items))
        except asyncio.TimeoutError:
            raise ModelUnavailable(self.name, "its replica does not answer") from None

    async def _answered(
        self, version: str, key: ShapeKey, items: Sequence[_Item]
    ) -> Sequence[list[Tensor] | Exception]:
        try:
            answers = await self._ask(version, key, items)
            if not all(isinstance(answer, ModelUnavailable) for answer in answers):
                return answers
            logger.warning("model '%s': a replica is still loading, trying again", self.name)
        except ReplicaDied as first:
            logger.warning("model '%s': %s, trying again", self.name, first)
        try:
            return await self._ask(version, key, items)
        except ReplicaDied:
            raise ModelUnavailable(self.name, "two replicas failed over this request") from None

    async def _ask(
        self, version: str, key: ShapeKey, items: Sequence[_Item]
    ) -> Sequence[list[Tensor] | Exception]:
        arena = self._usable_arena()
        if arena is not None:
            reply = await self._shared(arena, version, key, items)
            if isinstance(reply, BatchReply):
                try:
                    return self._answers(reply, reply.arena)
                except ArenaUnreachable as error:
                    self._note_unreachable(str(error))
        call = BatchCall(version, key, _members(items, None), None)
        reply = await self._replicas.infer(call, by_reference=True)
        if isinstance(reply, Unreachable):
            return [InferenceFailed(self.name, reply.reason)] * len(items)
        return self._answers(reply, None)

    def _usable_arena(self) -> Arena | None:
        """None for a while after a replica turned out not to reach this process's memory."""
        if self._calls_by_reference:
            self._calls_by_reference -= 1
            return None
        return self._arena

    async def _shared(
        self, arena: Arena, version: str, key: ShapeKey, items: Sequence[_Item]
    ) -> BatchReply | Unreachable:
        copied = sum(inline_bytes(tensor, arena) for item in items for tensor in item.tensors)
        if copied > _OFF_LOOP_BYTES:
            placed = await asyncio.to_thread(_placed, items, arena)
        else:
            placed = _placed(items, arena)
        inline = sum(inline_bytes(tensor, arena) for item in placed for tensor in item.tensors)
        if inline > MESSAGE_BYTES:
            return Unreachable("the arena is full", lasting=False)
        call = BatchCall(version, key, _members(placed, arena), arena.address)
        reply = await self._replicas.infer(call, by_reference=False)
        if isinstance(reply, Unreachable) and reply.lasting:
            self._note_unreachable(reply.reason)
        return reply

    def _note_unreachable(self, reason: str) -> None:
        logger.warning("model '%s', no shared memory: %s", self.name, reason)
        self._calls_by_reference = _BY_REFERENCE_AFTER_FAILURE

    def _answers(
        self, reply: BatchReply, arena: ArenaAddress | None
    ) -> Sequence[list[Tensor] | Exception]:
        """Raises ArenaUnreachable."""
        answers: list[list[Tensor] | Exception] = []
        for member in reply.members:
            if isinstance(member, ServingError):
                self._notice(member)
                answers.append(member)
            else:
                answers.append([unpack(t, arena, self._peers, leased=True) for t in member])
        return answers

    def _notice(self, error: ServingError) -> None:
        """A replica that is loading, or has another version: what is known may be out of date."""
        if isinstance(error, ModelUnavailable | VersionNotFound):
            self._start_refresh()


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Like `wait_for`, which costs a task before Python 3.12. Raises asyncio.TimeoutError."""
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(work, seconds)
    async with asyncio.timeout(seconds):
        return await work


def _end_with(result: "asyncio.Future[Any]", error: Exception) -> None:
    if not result.done():
        result.set_exception(error)


def _placed(items: Sequence[_Item], arena: Arena) -> list[_Item]:
    return [
        replace(item, tensors=tuple(into_arena(tensor, arena) for tensor in item.tensors))
        for item in items
    ]


def _members(items: Sequence[_Item], arena: Arena | None) -> tuple[Member, ...]:
    now = time.monotonic()
    return tuple(
        Member(
            tuple(pack(tensor, arena) for tensor in item.tensors),
            item.rows,
            item.outputs,
            max(0.0, item.deadline - now),
        )
        for item in items
    )
