"""Finds, loads, replaces and retires the versions of one model in a replica.

Knows neither OpenVINO nor Ray: the caller passes functions that find and load versions.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Generic, TypeAlias

from deployments import timing
from deployments.inference import ModelState, ModelStatus, VersionStatus
from deployments.model.sources.local import FoundVersion, SourceUnavailable
from deployments.model.versions.lifecycle import LoadFailed, ServingT, VersionState
from deployments.settings import ModelSettings

logger: Final = logging.getLogger("ray.serve")


Find: TypeAlias = Callable[[ModelSettings], Mapping[int, FoundVersion]]
"""Blocks; raises SourceUnavailable."""

Load: TypeAlias = Callable[[int, FoundVersion, ModelSettings], Awaitable[ServingT]]
"""Raises LoadFailed."""


class Versions(Generic[ServingT]):
    """Keeps the loaded versions in line with the settings and the files.

    A version answers until its replacement does. A version that fails to load changes nothing but
    its status. Belongs to one event loop; the task `follow` looks for changes.
    """

    def __init__(
        self,
        settings: ModelSettings,
        find: Find,
        load: "Load[ServingT]",
        *,
        linger_s: float = timing.RETIRING_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._find = find
        self._load = load
        self._linger_s = linger_s
        self._clock = clock
        self._versions: dict[int, VersionState[ServingT]] = {}
        self._by_revision: dict[str, ServingT] = {}
        self._unloading: Counter[int] = Counter()
        self._retiring: set[asyncio.Task[None]] = set()
        self._seen: Mapping[int, FoundVersion] = {}
        self._source = VersionState[ServingT]()
        self.first_look = asyncio.Event()
        """Set when the first look for versions has ended, with those loaded that could be."""
        self._unloaded = False
        self._next_look_s: float | None = None
        self._lock = asyncio.Lock()
        self._requested_look: asyncio.Task[bool] | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.remark = ""
        """Why the latest `user_config` was refused, empty if it was not."""
        self.progress = "it is being loaded"

    # Loaded versions -----------------------------------------------------------------------------

    def revision(self, revision: str) -> ServingT | None:
        """The version that answers calls for this revision."""
        return self._by_revision.get(revision)

    def version(self, number: str | None) -> ServingT | None:
        """The version of this number, or the highest for None."""
        answering = self._answering()
        if number is None:
            return answering[max(answering)] if answering else None
        return next((serving for n, serving in answering.items() if str(n) == number), None)

    def loaded(self) -> list[ServingT]:
        """All loaded versions, including those that are being unloaded."""
        return list(self._by_revision.values())

    def status(self) -> ModelStatus:
        answering = self._answering()
        numbers = self._versions.keys() | +self._unloading
        versions = tuple(self._status(number, tuple(answering)) for number in sorted(numbers))
        reasons = [
            self.remark,
            self._source.problem,
            *(v.reason for v in versions[::-1] if v.state != "UNLOADING"),
        ]
        reason = next(filter(None, reasons), "")
        if answering:
            return ModelStatus("AVAILABLE", reason, versions)
        if self._unloaded:
            return ModelStatus("UNAVAILABLE", "it was unloaded over the API", versions)
        if not self.first_look.is_set() or any(
            version.loading for version in self._versions.values()
        ):
            return ModelStatus("LOADING", self.progress, versions)
        return ModelStatus("UNAVAILABLE", reason or "it has no version", versions)

    def _answering(self) -> dict[int, ServingT]:
        """Lowest first."""
        versions = sorted(self._versions.items())
        return {number: v.serving for number, v in versions if v.serving is not None}

    def _status(self, number: int, answering: tuple[int, ...]) -> VersionStatus:
        version = self._versions.get(number)
        if version is None:
            return VersionStatus(str(number), "UNLOADING", "it is being unloaded")
        if version.serving is None:
            state: ModelState = "LOADING" if version.loading else "UNAVAILABLE"
            return VersionStatus(str(number), state, version.problem)
        labels = {label: str(n) for label, n in self.settings.version_labels.items()}
        info = replace(
            version.serving.info,
            versions=tuple(map(str, answering)),
            labels=labels,
            max_batch_rows=self.settings.batching.max_rows,
        )
        return VersionStatus(
            str(number), "AVAILABLE", version.problem or version.serving.remark, info
        )

    # Looking for changes -------------------------------------------------------------------------

    def reconfigure(self, settings: ModelSettings) -> None:
        """Applies settings that need no reload at once, and the others at the next look."""
        self.settings = settings
        for version in self._versions.values():
            if version.serving is not None:
                version.serving.configure(settings)
        self._wake.set()

    async def set_unloaded(self, unloaded: bool) -> None:
        """Retires all versions, or loads them again; returns when that is done."""
        self._unloaded = unloaded
        await self.look_now()

    async def follow(self) -> None:
        """Looks for changes now, and again whenever the next look is due."""
        while True:
            self._wake.clear()
            await self.look()
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the event.
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait([woken], timeout=self._next_look_s)
            finally:
                woken.cancel()

    async def look_now(self) -> bool:
        """Looks at once, and waits less for retries and not at all for files to settle.

        Returns whether the loaded versions changed. Calls before the look begins share it.
        """
        if self._requested_look is None:
            self._requested_look = asyncio.get_running_loop().create_task(self._look_on_request())
        return await asyncio.shield(self._requested_look)

    async def _look_on_request(self) -> bool:
        async with self._lock:
            self._requested_look = None
            changed = await self._look(at_once=True)
        self._wake.set()  # so that `follow` waits for the next look that this one has planned
        return changed

    async def look(self) -> bool:
        """Looks for changes and loads them; returns whether the loaded versions changed."""
        async with self._lock:
            return await self._look(at_once=False)

    async def _look(self, *, at_once: bool) -> bool:
        before, settings = self._loaded(), self.settings
        self._next_look_s = settings.look_every_s or None
        try:
            found = {} if self._unloaded else await asyncio.to_thread(self._find, settings)
        except SourceUnavailable as error:
            self._note_source(str(error), settings)
        except Exception:
            logger.exception("looking for versions of '%s' failed", settings.name)
            self._postpone(self._source, None, "its source cannot be read, the log has the reason")
        else:
            self._source = VersionState()
            await self._load_all(found, settings, at_once)
            self._retire_unwanted(found, settings)
        finally:
            self.first_look.set()
        return before != self._loaded()

    def _loaded(self) -> dict[int, Hashable]:
        return {number: version.loaded for number, version in self._versions.items()}

    async def close(self) -> None:
        """Unloads all versions after the inferences in flight."""
        self._versions, answering = {}, self._answering()
        for number, serving in answering.items():
            self._retire(number, serving)
        self._closing.set()
        await asyncio.gather(*self._retiring)

    def _note_source(self, reason: str, settings: ModelSettings) -> None:
        """Notes why the source cannot be read. Loaded versions go on answering.

        Looking again is cheap if the source is local, so this does not wait longer for that.
        """
        if reason not in self._source.problem:
            logger.warning("model '%s': %s", settings.name, reason)
        if settings.is_local and settings.poll_s:
            self._source.problem = reason
        else:
            self._postpone(self._source, None, reason)

    # Loading -------------------------------------------------------------------------------------

    async def _load_all(
        self, found: Mapping[int, FoundVersion], settings: ModelSettings, at_once: bool
    ) -> None:
        policy, available = settings.version_policy, 0
        answered = bool(self._answering())
        for number in policy.candidates(found):
            if policy.latest is not None and available >= policy.latest:
                break
            version = self._versions.setdefault(number, VersionState())
            new = answered and self._seen.get(number) != found[number]
            await self._load_if_due(number, version, found[number], settings, new, at_once)
            available += version.serving is not None
        for number in () if self._unloaded else policy.missing(found):
            self._versions.setdefault(number, VersionState()).problem = "its directory is missing"
        self._seen = found

    async def _load_if_due(
        self,
        number: int,
        version: VersionState[ServingT],
        found: FoundVersion,
        settings: ModelSettings,
        new: bool,
        at_once: bool,
    ) -> None:
        target = (found, settings.loaded_by())
        if version.loaded == target:
            version.problem = ""
            return
        if version.failed == target:
            if at_once:  # bounded, so that frequent calls do not retry each time
                version.wait_s = min(version.wait_s, timing.RETRY_LOAD_FIRST_S)
            if (left_s := version.tried_at + version.wait_s - self._clock()) > 0:
                self._look_again_in(left_s)
                return
        elif new and not at_once:  # its files may not be complete yet
            self._look_again_in(timing.SETTLING_S)
            return
        await self._replace(number, version, found, settings, target)

    async def _replace(
        self,
        number: int,
        version: VersionState[ServingT],
        found: FoundVersion,
        settings: ModelSettings,
        target: Hashable,
    ) -> None:
        version.loading = True
        try:
            serving = await self._load(number, found, settings)
        except LoadFailed as error:
            if version.failed != target:
                version.wait_s = 0.0
            self._postpone(version, target, str(error))
            logger.warning("model '%s' version %d: %s", settings.name, number, version.problem)
            return
        finally:
            version.loading = False
        serving.configure(self.settings)  # which may have changed while it was loading
        before, version.serving = version.serving, serving
        version.loaded, version.failed, version.problem = target, None, ""
        self._by_revision[serving.info.revision] = serving
        logger.info("model '%s' version %d is available", settings.name, number)
        if before is not None:
            self._retire(number, before)

    def _postpone(self, what: VersionState[ServingT], failed: Hashable, reason: str) -> None:
        """Plans the next try; the wait doubles with each failure."""
        what.wait_s = min(2 * what.wait_s or timing.RETRY_LOAD_FIRST_S, timing.RETRY_LOAD_LAST_S)
        what.failed, what.tried_at = failed, self._clock()
        what.problem = f"{reason}; next try in {what.wait_s:.0f} s"
        self._look_again_in(what.wait_s)

    def _look_again_in(self, after_s: float) -> None:
        self._next_look_s = min(after_s, self._next_look_s or after_s)

    # Retiring ------------------------------------------------------------------------------------

    def _retire_unwanted(self, found: Mapping[int, FoundVersion], settings: ModelSettings) -> None:
        """Retires versions whose files are gone, and others once the selected ones answer."""
        policy = settings.version_policy
        candidates = policy.candidates(found)
        selected = [n for n in candidates if self._answers(n)][: policy.latest]
        complete = len(selected) == policy.latest
        lowest = min(selected) if complete else 0
        awaited = {n for n in candidates if n > lowest}
        if not self._unloaded:
            awaited.update(policy.missing(found))
        for number in list(self._versions):
            if number in selected or (not self._answers(number) and number in awaited):
                continue
            if found and not selected and self._answers(number):
                continue  # it answers until a selected version can be loaded
            version = self._versions.pop(number)
            if version.serving is not None:
                self._retire(number, version.serving)

    def _answers(self, number: int) -> bool:
        version = self._versions.get(number)
        return version is not None and version.serving is not None

    def _retire(self, number: int, serving: ServingT) -> None:
        self._unloading[number] += 1
        task = asyncio.get_running_loop().create_task(self._close_after_lingering(number, serving))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_after_lingering(self, number: int, serving: ServingT) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), self._linger_s)
        revision = serving.info.revision
        if self._by_revision.get(revision) is serving:
            del self._by_revision[revision]
        await serving.close()
        self._unloading[number] -= 1
        logger.info("model '%s' version %d: unloaded the retired one", self.settings.name, number)
