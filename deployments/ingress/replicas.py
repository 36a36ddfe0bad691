"""A model's replicas, reached through a Serve handle or over a lane."""

import asyncio
from typing import Any, Final

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.crossing import BatchCall, BatchReply, Unreachable
from deployments.errors import ModelUnavailable, VersionChanged
from deployments.inference import ModelStatus
from deployments.ingress.lanes import LaneLost, Lanes, MeetingPoint
from deployments.ingress.model_replicas import ReplicaDied
from deployments.shape_records import ShapesReport

_CONTROL_S: Final = 2.0


class RayReplicas:
    """A model's deployment behind a Serve handle.

    Batches of shapes that are asked for often take a lane where there is one, all else the handle.
    """

    def __init__(self, handle: DeploymentHandle[Any], meeting: MeetingPoint | None) -> None:
        self._status = handle.options(method_name="status")
        self._by_message = handle.options(method_name="infer", _by_reference=False)
        self._by_reference = handle.options(method_name="infer", _by_reference=True)
        self._attend = handle.options(method_name="attend", _by_reference=False)
        self._handle = handle
        self._lanes = Lanes(meeting, self._attended) if meeting is not None else None

    async def status(self) -> ModelStatus:
        return await asyncio.wait_for(self._call(self._status), _CONTROL_S)

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        return await self._told("statistics", _CONTROL_S, version)

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        return await self._told("shapes", _CONTROL_S, version)

    async def look(self, timeout_s: float) -> bool:
        return any(await self._told("look", timeout_s))

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        await self._told("set_unloaded", timeout_s, unloaded)

    async def infer(self, call: BatchCall, *, by_reference: bool) -> BatchReply | Unreachable:
        reply: BatchReply | Unreachable
        if by_reference:
            reply = await self._call(self._by_reference, call)
        elif self._lanes is not None and (lane := self._lanes.idle(call.key)) is not None:
            try:
                reply = await lane.call(call)
            except LaneLost:
                self._lanes.drop()
                raise ReplicaDied("its connection ended") from None
            if isinstance(reply, BatchReply) and _is_refused(reply):
                self._lanes.drop()  # it is loading: who gets the next try is Serve's choice
        else:
            reply = await self._call(self._by_message, call)
        return reply

    def close(self) -> None:
        if self._lanes is not None:
            self._lanes.close()

    async def _attended(self, *arguments: Any) -> str | None:
        reason: str | None = await self._call(self._attend, *arguments)
        return reason

    async def _told(self, method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        """What each replica answers. Raises TimeoutError, ReplicaDied."""
        try:
            replies = self._handle.broadcast(method, *arguments).results_async()
            return list(await asyncio.wait_for(replies, timeout_s))
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error

    async def _call(self, handle: DeploymentHandle[Any], *arguments: Any) -> Any:
        try:
            return await handle.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise ReplicaDied(type(error).__name__) from error


def _is_refused(reply: BatchReply) -> bool:
    return all(isinstance(a, ModelUnavailable | VersionChanged) for a in reply.members)
