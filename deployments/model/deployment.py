"""The OpenVINOModel deployment: owns one model and reshapes it under one asyncio lock."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import ray
from ray import serve

from deployments import timing
from deployments.errors import ModelUnavailable, ServingError, VersionChanged
from deployments.inference import ModelStatus
from deployments.model.execution.replies import Replies
from deployments.model.execution.requests import BatchMember
from deployments.model.openvino.compiled_model import no_allocation
from deployments.model.versions.idle import IdleVersion
from deployments.model.versions.loader import Loader, LocalDirectories
from deployments.model.versions.serving import VersionServer
from deployments.model.versions.versions import Versions
from deployments.observability.logs import set_request_ids
from deployments.observability.metrics import (
    COMPILED_SHAPES,
    INFERENCE_SECONDS,
    OUTPUT_SECONDS,
    RayTelemetry,
)
from deployments.observability.shape_records import ShapesReport
from deployments.observability.tracing import inferred
from deployments.settings import Limits, ModelSettings, SettingsError, changed
from deployments.transport.arena import Arena, ArenaUnreachable, PeerArenas
from deployments.transport.batches import (
    ANY_ROUTE,
    BatchCall,
    BatchItem,
    BatchReply,
    Referenced,
    Route,
    Unreachable,
    unpack,
)
from deployments.transport.connections import CannotConnect, serve_connection
from deployments.transport.routing_stats import together
from deployments.transport.wire_format import FORMAT, Plain, call_of, plain_reply

logger: Final = logging.getLogger("ray.serve")


class CompilationHangs(Exception):
    """Raised when a compilation exceeds `compile_timeout_s`; nothing can stop it."""

    def __init__(self, model: str, seconds: float, limit_s: float) -> None:
        super().__init__(
            f"model '{model}': a compilation has taken {seconds:.0f} s, more than "
            f"compile_timeout_s ({limit_s:g}); Serve replaces the replica"
        )


class OpenVINOModel:
    """Loads one model, keeps its compiled shapes and runs the batches that the ingress sends.

    A version that fails to load does not stop the replica: its status has the reason, and the
    replica retries. Status and statistics never take the reshape lock.
    """

    def __init__(self, settings: ModelSettings, limits: Limits, places: LocalDirectories) -> None:
        self._settings = settings
        self._limits = limits
        self._peers = PeerArenas()
        self._arena = Arena(limits.shared_memory_bytes) if Arena.supported() else None
        self._replies = Replies(self._arena)
        self._reshape_lock = asyncio.Lock()
        cpus = _reserved_cpus()
        self._telemetry = RayTelemetry()
        loader = Loader(places, self._reshape_lock, self._report_progress, cpus, self._telemetry)
        self._versions: Versions[VersionServer | IdleVersion] = Versions(
            settings, loader.find, loader.load
        )
        self._telemetry.watch_memory(self._arena)
        self._telemetry.watch(COMPILED_SHAPES, self._compiled_shapes, settings.name)
        self._cached = places.cache is not None
        self._hot_shapes_file = places.hot_shapes(settings.name)
        self._downloading = False
        self._tasks: list[asyncio.Task[None]] = []
        self._under_way = 0

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Applies a `user_config`, which overrides the settings of the constructor; for Serve.

        If it is invalid the settings stay as they are, and the status has the reason. Serve would
        replace the replica again and again if this raised.
        """
        settings = self._versions.settings
        try:
            settings = changed(self._settings, user_config, self._limits, cached=self._cached)
        except SettingsError as error:
            self._versions.remark = f"user_config is refused: {' '.join(str(error).split())}"
            logger.error("model '%s': %s", self._settings.name, self._versions.remark)
        else:
            self._versions.remark = ""
        self._versions.reconfigure(settings)
        self._telemetry.start()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._versions.follow()),
                asyncio.create_task(self._remember_periodically()),
            ]
            await self._wait_until_started()

    async def _wait_until_started(self) -> None:
        """Waits until the model is loaded or has failed to load: Serve then stops the old replica.

        It does not wait for a download: the status reports its progress.
        """
        for _ in range(timing.START_S):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._versions.first_look.wait(), 1.0)
            if self._versions.first_look.is_set() or self._downloading:
                return

    async def status(self) -> ModelStatus:
        return self._versions.status()

    async def statistics(self, version: str | None = None) -> dict[str, Any]:
        """Counters since the version (the highest, if none is named) was loaded."""
        serving = self._versions.version(version)
        counters = {} if serving is None else serving.statistics()
        return {"state": self._versions.status().state, "pid": os.getpid(), **counters}

    async def look(self) -> bool:
        """Looks for versions now and retries failed ones; returns whether any changed."""
        return await self._versions.look_now()

    async def set_unloaded(self, unloaded: bool) -> None:
        """Unloads all versions, or loads them again."""
        await self._versions.set_unloaded(unloaded)

    async def shapes(self, version: str) -> ShapesReport | None:
        """The report on a version's shapes; None if this replica does not serve the version."""
        serving = self._versions.version(version)
        return None if serving is None else await serving.shapes()

    async def check_health(self) -> None:
        """Raises CompilationHangs. Serve calls this every few seconds, and replaces the replica."""
        settings = self._versions.settings
        longest_s = max((serving.compiling_s for serving in self._versions.loaded()), default=0.0)
        if longest_s > settings.compile_timeout_s:
            raise CompilationHangs(settings.name, longest_s, settings.compile_timeout_s)

    async def record_routing_stats(self) -> dict[str, Any]:
        """The statistics for the request routers; Serve calls this at intervals."""
        return together(serving.routing() for serving in self._versions.loaded()).as_stats()

    async def answers(self, route: Route) -> bool:
        """A sign of life: true if the route names this replica, or none."""
        return _is_for_this_replica(route)

    async def infer(
        self, call: BatchCall | Referenced, route: Route = ANY_ROUTE
    ) -> BatchReply | Unreachable:
        """Runs one batch; the reply has an answer or an error for each member.

        Only the request router uses `route`.
        """
        if isinstance(call, Referenced):
            call = await call.fetched()
        self._under_way += len(call.members)
        try:
            reply = await self._inferred(call)
            if isinstance(reply, BatchReply):
                reply = reply._replace(load=self._under_way)
            return reply
        finally:
            self._under_way -= len(call.members)

    async def _inferred(self, call: BatchCall) -> BatchReply | Unreachable:
        arrived = time.monotonic()
        set_request_ids(*(member.request_id for member in call.members))
        serving = self._versions.revision(call.revision)
        if serving is None:
            return BatchReply((self._version_error(call),) * len(call.members))
        try:
            if call.arena is not None:
                self._peers.reach(call.arena)  # fails for every call from another node
            works = [self._work(member, call) for member in call.members]
        except ArenaUnreachable as unreachable:
            return Unreachable(str(unreachable), lasting=True)
        answers = await serving.run(call.key, works)
        reply = await self._replies.made(answers, call)
        return self._with_times(reply, works, arrived, call)

    async def attend(
        self, name: str, token: bytes, route: Route, its_format: int = 1
    ) -> str | None:
        """Answers the batches of an ingress over a connection, until the ingress closes it.

        Returns the reason if it cannot connect. Returns None also if `route` names another replica,
        which may be gone.
        """
        if its_format != FORMAT:
            return f"the replica's message format is {FORMAT}, the ingress's is {its_format}"
        if not _is_for_this_replica(route):
            return None
        try:
            await serve_connection(name, token, self._answer_plain)
        except CannotConnect as error:
            return f"a replica cannot reach its ingress: {error.strerror}"
        return None

    async def _answer_plain(self, call: Plain) -> Plain:
        return plain_reply(await self.infer(call_of(call)))

    async def shut_down(self) -> None:
        """Stops loading, and ends after the inferences in flight and the running compilation."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._remember_shapes()
        await self._versions.close()
        await self._telemetry.close()

    # Serve awaits this when the replica has drained.
    __del__ = shut_down

    async def _remember_periodically(self) -> None:
        while True:
            await asyncio.sleep(timing.REMEMBER_SHAPES_S)
            await self._remember_shapes()

    async def _remember_shapes(self) -> None:
        """Saves the shapes in most demand for the warm-up at the next start."""
        count, serving = self._versions.settings.remember_shapes, self._versions.version(None)
        if count and serving is not None and self._hot_shapes_file is not None:
            await asyncio.to_thread(self._hot_shapes_file.write, serving.hot_shapes(count))

    def _with_times(
        self,
        reply: BatchReply | Unreachable,
        works: Sequence[BatchMember],
        arrived: float,
        call: BatchCall,
    ) -> BatchReply | Unreachable:
        """Records the times of the inferences, and adds the time of the call to the reply."""
        now, name = time.monotonic(), self._settings.name
        for work in works:
            began, ended = work.times.began, work.times.ended
            if began is None or ended is None:
                continue
            self._telemetry.observe(INFERENCE_SECONDS, ended - began, name)
            self._telemetry.observe(OUTPUT_SECONDS, now - ended, name)
            if work.trace:
                version = call.revision.partition("-")[0]
                inferred(work.trace, began, ended, name, version, work.rows, call.key)
        return reply._replace(took_s=now - arrived) if isinstance(reply, BatchReply) else reply

    def _compiled_shapes(self) -> int:
        return sum(serving.compiled_shapes for serving in self._versions.loaded())

    def _version_error(self, call: BatchCall) -> ServingError:
        status = self._versions.status()
        if status.info is None:
            return ModelUnavailable(self._settings.name, status.reason)
        return VersionChanged(self._settings.name, call.revision.partition("-")[0])

    def _report_progress(self, line: str) -> None:
        self._versions.progress = line
        self._downloading = True

    def _work(self, member: BatchItem, call: BatchCall) -> BatchMember:
        tensors = tuple(unpack(packed, call.arena, self._peers) for packed in member.tensors)
        deadline = time.monotonic() + member.time_left_s
        space = no_allocation if call.arena is None else self._replies.space
        return BatchMember(
            tensors,
            member.rows,
            member.outputs,
            deadline,
            member.time_left_s,
            space,
            member.request_id,
            member.trace,
        )


def _is_for_this_replica(route: Route) -> bool:
    here = serve.get_replica_context().replica_id.unique_id
    return route.replica in (None, here)


def _reserved_cpus() -> float:
    """`num_cpus` of this replica's `ray_actor_options`; 0 if it has none, or without Ray."""
    if not ray.is_initialized():
        return 0
    context: Any = ray.get_runtime_context()  # its methods have no types
    return float(context.get_assigned_resources().get("CPU", 0))
