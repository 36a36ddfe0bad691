"""The ingress's cache of a model's status, as its replicas last reported it."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Final

from deployments import timing
from deployments.inference import ModelStatus
from deployments.ingress.dataplane.replicas import ReplicaDied

_SILENCES: Final = 4
_REFUSALS: Final = 4


class StatusCache:
    """Caches a model's status, and asks again on use after a second, by one task for all users."""

    def __init__(self, ask: Callable[[], Awaitable[ModelStatus]]) -> None:
        self._ask = ask
        self._status = ModelStatus("LOADING", "its replicas have not answered yet")
        self._until = 0.0
        self._silences = 0
        self._refusals = 0
        self._starting_until = time.monotonic() + timing.STARTING_S
        self._refreshing: asyncio.Task[ModelStatus] | None = None

    async def get(self) -> ModelStatus:
        """The status. It does not wait for a new answer if the last one is recent.

        The replica may be busy. After a pause the status may be out of date, so this waits.
        """
        now = time.monotonic()
        if now >= self._until:
            self.refresh()
        unknown = self._status.info is None or now >= self._until + timing.STATUS_STALE_S
        if unknown and self._refreshing is not None:
            await asyncio.shield(self._refreshing)
        return self._status

    async def after_asking(self, *, believed: bool = False) -> ModelStatus:
        """The status from a new question to a replica; with `believed`, one refusal is enough."""
        if self._refreshing is not None:  # that question may be too old
            await asyncio.shield(self._refreshing)
        if believed:
            self._refusals = _REFUSALS
        return await asyncio.shield(self.refresh())

    def refresh(self) -> "asyncio.Task[ModelStatus]":
        if self._refreshing is None:
            # A fresh context: the task must not end with the request that started it.
            self._refreshing = contextvars.Context().run(asyncio.create_task, self._refresh())
        return self._refreshing

    async def _refresh(self) -> ModelStatus:
        try:
            status = await self._ask()
            self._silences, self._starting_until = 0, 0.0
            # One of several replicas may still be loading while the others serve.
            self._refusals = self._refusals + 1 if status.info is None else 0
            if status.info is not None or self._status.info is None or self._refusals >= _REFUSALS:
                self._status = status
        except (ReplicaDied, TimeoutError):
            self._silences += 1
            if self._silences >= _SILENCES and time.monotonic() >= self._starting_until:
                self._status = ModelStatus("UNAVAILABLE", "none of its replicas answers")
        finally:
            self._until = time.monotonic() + timing.STATUS_FRESH_S
            self._refreshing = None
        return self._status
