"""The OpenVINOModel deployment: owns one model and reshapes it under one asyncio lock."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from deployments.arena import Arena, ArenaUnreachable, PeerArenas
from deployments.crossing import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    BatchCall,
    BatchReply,
    DoesNotFit,
    Member,
    PackedTensor,
    Unreachable,
    inline_bytes,
    pack,
    pack_leased,
    unpack,
    withdraw,
)
from deployments.errors import ModelUnavailable, ServingError, VersionNotFound
from deployments.inference import ModelStatus, ShapeKey
from deployments.lanes import CannotConnect, attend
from deployments.model.download import fetch
from deployments.model.mirror import Mirror
from deployments.model.repository import SourceUnavailable, locate
from deployments.model.runtime import BUILT_IN, CannotLoad, CannotReshape, nowhere
from deployments.model.serving import CacheSettings, ServingVersion, Work
from deployments.model.shapes import PolicyError
from deployments.model.version import Version, VersionSettings
from deployments.settings import Limits, ModelSettings
from deployments.tensors import Array, Tensor

logger: Final = logging.getLogger("ray.serve")

_START_WAITS_S: Final = 20.0
_RETRY_FIRST_S: Final = 5.0
_RETRY_LAST_S: Final = 120.0
_OFF_LOOP_BYTES: Final = 1 << 20


class OpenVINOModel:
    """Loads one model, keeps its compiled shapes and runs the batches that the ingress sends.

    A model that cannot be loaded does not stop the replica: the reason is its status, and
    loading is tried again. The reshape lock is never taken by status or statistics.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it on the replica's event loop
        self, settings: ModelSettings, limits: Limits, repository: Path
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._repository = repository
        self._reshape_lock = asyncio.Lock()
        self._peers = PeerArenas()
        self._arena = Arena(limits.shared_memory_bytes) if Arena.supported() else None
        self._serving: ServingVersion | None = None
        self._status = ModelStatus("LOADING", "it is being loaded")
        self._loading = asyncio.create_task(self._load_until_available())
        # The replica takes requests when this returns; most models are loaded by then.
        await asyncio.wait([self._loading], timeout=_START_WAITS_S)

    async def status(self) -> ModelStatus:
        return self._status

    async def statistics(self) -> dict[str, Any]:
        """Counters since the model was loaded, and how full its cache is."""
        serving = {} if self._serving is None else self._serving.statistics()
        return {"state": self._status.state, "pid": os.getpid(), **serving}

    async def infer(self, call: BatchCall) -> BatchReply | Unreachable:
        """Runs one batch; what fails is told in the reply, member by member."""
        serving = self._serving
        if serving is None:
            error: ServingError = ModelUnavailable(self._settings.name, self._status.reason)
            return BatchReply((error,) * len(call.members))
        if call.version != serving.version.info.version:
            known = serving.version.info.versions
            error = VersionNotFound(self._settings.name, call.version, known)
            return BatchReply((error,) * len(call.members))
        try:
            if call.arena is not None:
                self._peers.reach(call.arena)  # from another node even small calls fail here
            works = [self._work(member, call) for member in call.members]
        except ArenaUnreachable as unreachable:
            return Unreachable(str(unreachable), lasting=True)
        answers = await serving.run(call.key, works)
        if self._copies(answers) > _OFF_LOOP_BYTES:
            return await asyncio.to_thread(self._reply, answers, call)
        return self._reply(answers, call)

    async def attend(self, name: str, token: bytes, key: ShapeKey) -> str | None:
        """Answers the batches of an ingress over a lane, until it closes it.

        Returns why the ingress cannot be reached from here. `key`, the shape that the lane is
        for, is what a request router decides by.
        """
        try:
            await attend(name, token, self.infer)
        except CannotConnect as error:
            return f"a replica cannot reach its ingress: {error.strerror}"
        return None

    async def shut_down(self) -> None:
        """Stops loading and ends after the inferences and the compilation under way."""
        self._loading.cancel()
        if self._serving is not None:
            await self._serving.close()

    # Serve awaits this when the replica has drained.
    __del__ = shut_down

    def _work(self, member: Member, call: BatchCall) -> Work:
        tensors = tuple(unpack(packed, call.arena, self._peers) for packed in member.tensors)
        deadline = time.monotonic() + member.time_left_s
        space = nowhere if call.arena is None else self._space
        return Work(tensors, member.rows, member.outputs, deadline, member.time_left_s, space)

    def _copies(self, answers: Sequence[list[Tensor] | ServingError]) -> int:
        """How many bytes of outputs sending them copies."""
        outputs = (a for answer in answers if not isinstance(answer, ServingError) for a in answer)
        return sum(inline_bytes(output, self._arena) for output in outputs)

    def _space(self, nbytes: int) -> Array | None:
        """Memory for an output that is too large to travel inside an answer."""
        if self._arena is None or nbytes <= INLINE_BYTES:
            return None
        return self._arena.lendable(nbytes)

    def _reply(
        self, answers: Sequence[list[Tensor] | ServingError], call: BatchCall
    ) -> BatchReply | Unreachable:
        if call.arena is None or self._arena is None:
            inline = (a if isinstance(a, ServingError) else _inline(a) for a in answers)
            return BatchReply(tuple(inline))
        members: list[tuple[PackedTensor, ...] | ServingError] = []
        try:
            for answer in answers:
                packed = (
                    answer
                    if isinstance(answer, ServingError)
                    else pack_leased(answer, self._arena, call.arena.pid)
                )
                members.append(packed)
        except DoesNotFit:
            return self._taken_back(members, "no shared memory is left for the outputs")
        if _message_bytes(members) > MESSAGE_BYTES:
            return self._taken_back(members, "the outputs are too large for a message")
        return BatchReply(tuple(members), self._arena.address)

    def _taken_back(
        self, members: Sequence[tuple[PackedTensor, ...] | ServingError], reason: str
    ) -> Unreachable:
        assert self._arena is not None
        for member in members:
            if not isinstance(member, ServingError):
                withdraw(member, self._arena)
        return Unreachable(reason, lasting=False)

    async def _load_until_available(self) -> None:
        wait_s = _RETRY_FIRST_S
        while True:
            reason = await self._try_to_load()
            if reason is None:
                return
            logger.warning("model '%s' is unavailable: %s", self._settings.name, reason)
            retry = f"{reason}; next try in {wait_s:.0f} s"
            self._status = ModelStatus("UNAVAILABLE", retry)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _RETRY_LAST_S)

    async def _try_to_load(self) -> str | None:
        """Loads the model, or says in words why that failed."""
        try:
            version = await asyncio.to_thread(self._load)
            serving = ServingVersion(version, self._cache_settings(), self._reshape_lock)
            await serving.warm_up(self._warm_up(version))
        except (SourceUnavailable, CannotLoad, PolicyError) as error:
            if error.__cause__ is not None:
                logger.warning("%s", error.__cause__)
            return str(error)
        except CannotReshape as error:
            return f"a warm-up shape cannot be compiled: {error}"
        except Exception:
            logger.exception("loading model '%s' failed", self._settings.name)
            return "loading it failed, the server's log has the reason"
        self._serving = serving
        labels = {label: str(n) for label, n in self._settings.version_labels.items()}
        self._status = ModelStatus("AVAILABLE", "", replace(version.info, labels=labels))
        logger.info("model '%s' is available: %s", self._settings.name, serving.statistics())
        return None

    def _load(self) -> Version:
        settings = self._settings
        number, source = self._source()
        return Version(
            settings.name,
            number,
            source,
            VersionSettings(
                device=settings.device,
                plugin_config=settings.plugin_config,
                shape=settings.shape_rules,
                batch_size=settings.batch_size,
                background=settings.reshape == "background",
                max_batch_rows=settings.batching.max_rows,
                stacking=settings.batching.stacking,
            ),
        )

    def _source(self) -> tuple[str, str | Path]:
        """The number and the file of the version to serve: the highest there is."""
        name, source = self._settings.name, self._settings.source
        if isinstance(source, str) and source in BUILT_IN:
            return "1", source
        if isinstance(source, str) and self._settings.remote:
            mirror = Mirror(name, source, self._settings.storage_options, self._repository)
            known = mirror.known_versions(self._report_progress)
            versions = mirror.bring({max(known): known[max(known)]}, self._report_progress)
        elif isinstance(source, str):
            versions = locate(name, source, self._repository)
        else:
            versions = fetch(name, source, self._repository, self._report_progress)
        latest = max(versions)
        return str(latest), versions[latest]

    def _report_progress(self, line: str) -> None:
        logger.info("%s", line)
        self._status = ModelStatus("LOADING", f"it is being downloaded: {line}")

    def _cache_settings(self) -> CacheSettings:
        return CacheSettings(
            bound=self._settings.max_compiled_shapes,
            blocking=self._settings.reshape == "blocking",
            promote_after=self._settings.promote_after,
            compiles_per_minute=self._settings.compiles_per_minute,
        )

    def _warm_up(self, version: Version) -> list[list[tuple[int, ...]]]:
        """The warm-up shapes in the order of the model's inputs."""
        names = [spec.name for spec in version.info.inputs]
        shapes = []
        for entry in self._settings.warm_up_shapes:
            by_name = entry if isinstance(entry, dict) else dict.fromkeys(names, entry)
            if by_name.keys() != set(names):
                raise PolicyError(f"warm_up names {sorted(by_name)}, the inputs are {names}")
            shapes.append([by_name[name] for name in names])
        return shapes


def _inline(answer: Sequence[Tensor]) -> tuple[PackedTensor, ...]:
    return tuple(pack(tensor, None) for tensor in answer)


def _message_bytes(members: Sequence[tuple[PackedTensor, ...] | ServingError]) -> int:
    total = 0
    for member in members:
        for *_, data in () if isinstance(member, ServingError) else member:
            if isinstance(data, list):
                total += sum(map(len, data)) + 4 * len(data)
            elif not isinstance(data, int):
                total += data.nbytes
    return total
