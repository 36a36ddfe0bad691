"""The versions of one model in a replica: found, loaded, replaced and let go of.

Knows neither OpenVINO nor Ray: how versions are found and loaded is handed in.
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
from deployments.model.sources.local import Found, SourceUnavailable
from deployments.model.versions.lifecycle import LoadFailed, ServingT, VersionState
from deployments.settings import ModelSettings

logger: Final = logging.getLogger("ray.serve")


Find: TypeAlias = Callable[[ModelSettings], Mapping[int, Found]]
"""Blocks; raises SourceUnavailable."""

Load: TypeAlias = Callable[[int, Found, ModelSettings], Awaitable[ServingT]]
"""Raises LoadFailed."""


class Versions(Generic[ServingT]):
    """Brings the versions to what the settings and the files say, again and again.

    What answers goes on answering until what replaces it does; a version that cannot be loaded
    changes nothing but its status. Belongs to one event loop; `follow` is the task that looks.
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
        self._leaving: Counter[int] = Counter()
        self._retiring: set[asyncio.Task[None]] = set()
        self._seen: Mapping[int, Found] = {}
        self._source = VersionState[ServingT]()
        self.first_look = asyncio.Event()
        """Set when the versions have been looked at, and loaded if they could be."""
        self._unloaded = False
        self._again_s: float | None = None
        self._turn = asyncio.Lock()
        self._asked: asyncio.Task[bool] | None = None
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self.remark = ""
        """What is wrong with the settings, where they are not those that were asked for."""
        self.progress = "it is being loaded"

    # What there is -------------------------------------------------------------------------------

    def revision(self, revision: str) -> ServingT | None:
        """What answers calls for this revision."""
        return self._by_revision.get(revision)

    def version(self, number: str | None) -> ServingT | None:
        """What serves this version, or the highest."""
        answering = self._answering()
        if number is None:
            return answering[max(answering)] if answering else None
        return next((serving for n, serving in answering.items() if str(n) == number), None)

    def loaded(self) -> list[ServingT]:
        """All that are loaded, with those that are being let go of."""
        return list(self._by_revision.values())

    def status(self) -> ModelStatus:
        answering = self._answering()
        told = self._versions.keys() | +self._leaving
        versions = tuple(self._status(number, tuple(answering)) for number in sorted(told))
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
            return VersionStatus(str(number), "UNLOADING", "it is being let go of")
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

    # What there is to be -------------------------------------------------------------------------

    def reconfigure(self, settings: ModelSettings) -> None:
        """Takes over at once what needs no loading, and has the rest loaded soon."""
        self.settings = settings
        for version in self._versions.values():
            if version.serving is not None:
                version.serving.configure(settings)
        self._wake.set()

    async def set_unloaded(self, unloaded: bool) -> None:
        """Lets go of all versions, or loads them again; ends when that is done."""
        self._unloaded = unloaded
        await self.look_now()

    async def follow(self) -> None:
        """Looks now, and whenever it is time to look again."""
        while True:
            self._wake.clear()
            await self.look()
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the event.
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait([woken], timeout=self._again_s)
            finally:
                woken.cancel()

    async def look_now(self) -> bool:
        """Looks at once, though what failed was tried a while ago or files have just changed.

        Says whether that changed what is loaded. Those who ask before it begins share one look.
        """
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_task(self._look_as_asked())
        return await asyncio.shield(self._asked)

    async def _look_as_asked(self) -> bool:
        async with self._turn:
            self._asked = None
            changed = await self._look(at_once=True)
        self._wake.set()  # `follow` waits for the time of an earlier look
        return changed

    async def look(self) -> bool:
        """Brings the versions up to date; says whether that changed what is loaded."""
        async with self._turn:
            return await self._look(at_once=False)

    async def _look(self, *, at_once: bool) -> bool:
        before, settings = self._loaded(), self.settings
        self._again_s = settings.look_every_s or None
        try:
            found = {} if self._unloaded else await asyncio.to_thread(self._find, settings)
        except SourceUnavailable as error:
            self._note_source(str(error), settings)
        except Exception:
            logger.exception("looking for versions of '%s' failed", settings.name)
            self._put_off(self._source, None, "its source cannot be read, the log has the reason")
        else:
            self._source = VersionState()
            await self._bring_up(found, settings, at_once)
            self._let_go(found, settings)
        finally:
            self.first_look.set()
        return before != self._loaded()

    def _loaded(self) -> dict[int, Hashable]:
        return {number: version.loaded for number, version in self._versions.items()}

    async def close(self) -> None:
        """Ends after the inferences that are under way."""
        self._versions, answering = {}, self._answering()
        for number, serving in answering.items():
            self._retire(number, serving)
        self._hurry.set()
        await asyncio.gather(*self._retiring)

    def _note_source(self, reason: str, settings: ModelSettings) -> None:
        """What is there answers on. Looking again is cheap where the source is a local one."""
        if reason not in self._source.problem:
            logger.warning("model '%s': %s", settings.name, reason)
        if settings.is_local and settings.poll_s:
            self._source.problem = reason
        else:
            self._put_off(self._source, None, reason)

    # Bringing up ---------------------------------------------------------------------------------

    async def _bring_up(
        self, found: Mapping[int, Found], settings: ModelSettings, at_once: bool
    ) -> None:
        policy, available = settings.version_policy, 0
        answered = bool(self._answering())
        for number in policy.candidates(found):
            if policy.latest is not None and available >= policy.latest:
                break
            version = self._versions.setdefault(number, VersionState())
            new = answered and self._seen.get(number) != found[number]
            await self._bring_up_one(number, version, found[number], settings, new, at_once)
            available += version.serving is not None
        for number in () if self._unloaded else policy.missing(found):
            self._versions.setdefault(number, VersionState()).problem = "its directory is not there"
        self._seen = found

    async def _bring_up_one(
        self,
        number: int,
        version: VersionState[ServingT],
        found: Found,
        settings: ModelSettings,
        new: bool,
        at_once: bool,
    ) -> None:
        wanted = (found, settings.loaded_by())
        if version.loaded == wanted:
            version.problem = ""
            return
        if version.failed == wanted:
            if at_once:  # but not all the time
                version.wait_s = min(version.wait_s, timing.RETRY_LOAD_FIRST_S)
            if (left_s := version.tried_at + version.wait_s - self._clock()) > 0:
                self._look_again(left_s)
                return
        elif new and not at_once:  # its files may not be complete yet
            self._look_again(timing.SETTLING_S)
            return
        await self._replace(number, version, found, settings, wanted)

    async def _replace(
        self,
        number: int,
        version: VersionState[ServingT],
        found: Found,
        settings: ModelSettings,
        wanted: Hashable,
    ) -> None:
        version.loading = True
        try:
            serving = await self._load(number, found, settings)
        except LoadFailed as error:
            if version.failed != wanted:
                version.wait_s = 0.0
            self._put_off(version, wanted, str(error))
            logger.warning("model '%s' version %d: %s", settings.name, number, version.problem)
            return
        finally:
            version.loading = False
        serving.configure(self.settings)  # may have changed meanwhile
        before, version.serving = version.serving, serving
        version.loaded, version.failed, version.problem = wanted, None, ""
        self._by_revision[serving.info.revision] = serving
        logger.info("model '%s' version %d is available", settings.name, number)
        if before is not None:
            self._retire(number, before)

    def _put_off(self, what: VersionState[ServingT], failed: Hashable, reason: str) -> None:
        """The next try is after a wait that doubles from one to the next."""
        what.wait_s = min(2 * what.wait_s or timing.RETRY_LOAD_FIRST_S, timing.RETRY_LOAD_LAST_S)
        what.failed, what.tried_at = failed, self._clock()
        what.problem = f"{reason}; next try in {what.wait_s:.0f} s"
        self._look_again(what.wait_s)

    def _look_again(self, after_s: float) -> None:
        self._again_s = min(after_s, self._again_s or after_s)

    # Letting go ----------------------------------------------------------------------------------

    def _let_go(self, found: Mapping[int, Found], settings: ModelSettings) -> None:
        """Of versions that are gone, and of those that are not wanted once the wanted answer."""
        policy = settings.version_policy
        candidates = policy.candidates(found)
        wanted = [n for n in candidates if self._answers(n)][: policy.latest]
        complete = len(wanted) == policy.latest
        lowest = min(wanted) if complete else 0
        awaited = {n for n in candidates if n > lowest}
        if not self._unloaded:
            awaited.update(policy.missing(found))
        for number in list(self._versions):
            if number in wanted or (not self._answers(number) and number in awaited):
                continue
            if found and not wanted and self._answers(number):
                continue  # better than none, until one that is wanted can be loaded
            version = self._versions.pop(number)
            if version.serving is not None:
                self._retire(number, version.serving)

    def _answers(self, number: int) -> bool:
        version = self._versions.get(number)
        return version is not None and version.serving is not None

    def _retire(self, number: int, serving: ServingT) -> None:
        self._leaving[number] += 1
        task = asyncio.get_running_loop().create_task(self._retired(number, serving))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retired(self, number: int, serving: ServingT) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._linger_s)
        revision = serving.info.revision
        if self._by_revision.get(revision) is serving:
            del self._by_revision[revision]
        await serving.close()
        self._leaving[number] -= 1
        logger.info("model '%s' version %d: one is let go of", self.settings.name, number)
