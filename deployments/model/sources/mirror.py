"""Copies remote models to the model repository, version by version.

Blocking: call it in worker threads. A copy is a version directory that contains the record of its
origin; there is no other state, in memory or on disk. This module does not use version directories
of another origin or without a record, and moves them away if a copy needs their name.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.model.sources.download import MAX_BYTES, Progress
from deployments.model.sources.local import (
    SourceUnavailable,
    translate_os_errors,
    version_directories,
    versions_in,
)
from deployments.model.sources.object_store import Store, StoredFile, signature
from deployments.model.sources.origin import Origin, recorded
from deployments.model.sources.repository import (
    discard,
    exchange,
    home_of,
    locked,
    part_of,
    tidy,
)
from deployments.model.sources.urls import shown


@dataclass(frozen=True)
class Mirror:
    """A model's versions at `url`, and their copies in `<repository>/<name>/<version>/`.

    A version's origin changes when the store's files do. `progress` gets lines for people to read;
    an exception from it ends a copy and leaves nothing of it. `max_bytes` bounds each file. All
    methods raise SourceUnavailable, whose text has no secrets of `url`, `options` or the
    environment.
    """

    name: str
    url: str
    options: Mapping[str, Any] = field(repr=False)
    repository: Path
    max_bytes: int = MAX_BYTES

    def remote_versions(self) -> dict[int, Origin]:
        """Lists the store's versions once, with their origins, lowest first; never empty."""
        stored = Store(self.url, self.options).versions()
        if not stored:
            raise SourceUnavailable(f"{shown(self.url)} has no version directory with a model file")
        return {number: self._origin(files) for number, files in stored.items()}

    def local_versions(self) -> dict[int, Origin]:
        """The versions in the repository that were copied from `url`."""
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            origins = {number: recorded(home / str(number)) for number in versions_in(home)}
        return {
            number: origin
            for number, origin in origins.items()
            if origin is not None and origin.urls == {shown(self.url)}
        }

    def known_versions(self, progress: Callable[[str], None]) -> dict[int, Origin]:
        """The store's versions or, if it cannot be read, the local ones; reports that."""
        try:
            return self.remote_versions()
        except SourceUnavailable as reason:
            if not (versions := self.local_versions()):
                raise SourceUnavailable(f"{reason}{self._others_in_words()}") from reason
            progress(f"{self.name}: {reason}; using the copies in the repository")
            return versions

    def copy_missing(
        self, wanted: Mapping[int, Origin], progress: Callable[[str], None]
    ) -> dict[int, Path]:
        """Copies missing versions; returns the wanted ones with the path that OpenVINO reads.

        `wanted` has the listed origins. A version whose copy has the same origin needs no store;
        for others this copies the store's present files. A copy gets its name when it is complete;
        the name of a changed version is free for an instant before. Files that no record names are
        set aside. Processes that copy the same model wait for each other.
        """
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            if self._missing(wanted):
                home.mkdir(parents=True, exist_ok=True)
                waiting = f"{self.name}: waiting for another process that downloads it"
                with locked(home, lambda: progress(waiting)):
                    if missing := self._missing(wanted):  # another process may have been here
                        self._copy(missing, home, progress)
            return {number: path for number, path in versions_in(home).items() if number in wanted}

    def prune(self, keep: Collection[int]) -> list[int]:
        """Removes copies of versions that are not in `keep`, and returns their numbers.

        It leaves version directories that hold files which no record names.
        """
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            if not home.is_dir():
                return []
            with locked(home, lambda: None):
                stale = [
                    number
                    for number, path in version_directories(home)
                    if number not in keep and _is_copy(path)
                ]
                for number in stale:
                    discard(home / str(number))
                tidy(home)
        return stale

    def _others_in_words(self) -> str:
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            numbers = ", ".join(map(str, versions_in(home)))
        text = f"; the repository's versions ({numbers}) are from another source"
        return text if numbers else ""

    def _missing(self, wanted: Mapping[int, Origin]) -> list[int]:
        local = self.local_versions()
        return [number for number in wanted if local.get(number) != wanted[number]]

    def _copy(self, numbers: Collection[int], home: Path, progress: Callable[[str], None]) -> None:
        tidy(home)
        store = Store(self.url, self.options)
        stored = store.versions()
        try:
            for number in numbers:
                files = stored.get(number, ())
                if not files:
                    raise SourceUnavailable(f"{store.url} has no version {number}")
                version = home / str(number)
                part = part_of(version)
                self._copy_version(number, files, store, part, progress)
                if signature(store.versions().get(number, ())) != signature(files):
                    raise SourceUnavailable(
                        f"version {number} of {store.url} changed while it was copied"
                    )
                exchange(part, version, disposable=_is_copy(version))
                progress(f"{self.name}: copied version {number}")
        finally:
            tidy(home)

    def _copy_version(
        self,
        number: int,
        files: Collection[StoredFile],
        store: Store,
        part: Path,
        progress: Callable[[str], None],
    ) -> None:
        part.mkdir()
        for file in files:
            self._check(file, store.url)
            report = Progress(f"{self.name}: {number}/{file.name}", progress)
            _receive(store, file, part / file.name, report)
        self._origin(files).record(part)

    def _origin(self, files: Collection[StoredFile]) -> Origin:
        return Origin.of({self.url: signature(files)})

    def _check(self, file: StoredFile, url: str) -> None:
        if not _stays_inside(file.name):
            raise SourceUnavailable(f"{url} has a file whose name is not allowed: {file.name!r}")
        if file.size is None:
            raise SourceUnavailable(f"{url} does not report the size of {file.name}")
        if file.size > self.max_bytes:
            raise SourceUnavailable(
                f"{file.name} of {url} is larger than the allowed {self.max_bytes} bytes"
            )


def _is_copy(version: Path) -> bool:
    origin = recorded(version)
    return origin is not None and origin.accounts_for(version)


def _stays_inside(name: str) -> bool:
    """Whether a store's file name stays inside the directory of the copy."""
    odd = re.search(r"[\\\x00-\x1f\x7f]", name)
    return not odd and all(part not in ("", ".", "..") for part in name.split("/"))


def _receive(store: Store, file: StoredFile, target: Path, report: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with target.open("xb") as out:
        for piece in store.read(file):
            done += len(piece)
            out.write(piece)
            report.at(done, file.size)
        out.flush()
        os.fsync(out.fileno())  # before the rename, so that a power cut cannot leave it empty
    report.line(done, file.size)
