"""Copies of remote models in the model repository, version by version.

Blocks and belongs in a worker thread. A copy is a version directory like any other, with a hidden
file in it that says what it is a copy of; there is no other state, in memory or on disk. Version
directories without that file were put there by other means and are used as they are.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from deployments.model.sources.download import MAX_BYTES, Progress, home_of, locked, shown
from deployments.model.sources.local import (
    SourceUnavailable,
    translate_os_errors,
    version_directories,
    versions_in,
)
from deployments.model.sources.object_store import Store, StoredFile, signature

ORIGIN: Final = ".origin.json"
OWN: Final = ""
"""The signature of a version that is no copy."""


@dataclass(frozen=True)
class Mirror:
    """A model's versions at `url` and the copies of them in `<repository>/<name>/<version>/`.

    A version's signature changes when the store's files do. `progress` gets lines for people to
    read; what it raises ends a copy and leaves nothing of it. `max_bytes` bounds each file. All
    methods raise SourceUnavailable, in words and without what may be secret in `url`, `options` or
    the environment.
    """

    name: str
    url: str
    options: Mapping[str, Any] = field(repr=False)
    repository: Path
    max_bytes: int = MAX_BYTES

    def remote_versions(self) -> dict[int, str]:
        """The store's versions with their signatures, lowest first; one listing, never empty."""
        stored = Store(self.url, self.options).versions()
        if not stored:
            raise SourceUnavailable(f"{shown(self.url)} has no version directory with a model file")
        return {number: signature(files) for number, files in stored.items()}

    def local_versions(self) -> dict[int, str]:
        """What can be served without the store: copies from `url`, and versions that are none."""
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            origins = {number: _origin(home / str(number)) for number in versions_in(home)}
        return {
            number: OWN if origin is None else origin.signature
            for number, origin in origins.items()
            if origin is None or origin.url == self.url
        }

    def known_versions(self, progress: Callable[[str], None]) -> dict[int, str]:
        """The store's versions or, told to `progress`, the local ones when it is out of reach."""
        try:
            return self.remote_versions()
        except SourceUnavailable as reason:
            if not (versions := self.local_versions()):
                raise
            progress(f"{self.name}: {reason}; going on with the versions that are here")
            return versions

    def bring(self, wanted: Mapping[int, str], progress: Callable[[str], None]) -> dict[int, Path]:
        """The wanted versions, each with the path that OpenVINO reads, after copying what lacks.

        `wanted` has the signatures that were listed; versions that are here with the same one need
        no store. What the store holds by now is copied otherwise. A version takes its name when
        all its files are here; that of a changed one is free for an instant before. Processes that
        bring the same model wait for each other.
        """
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            if self._lacking(wanted):
                home.mkdir(parents=True, exist_ok=True)
                waiting = f"{self.name}: waiting for another process that downloads it"
                with locked(home, lambda: progress(waiting)):
                    if lacking := self._lacking(wanted):  # another process may have been here
                        self._copy(lacking, home, progress)
            return {number: path for number, path in versions_in(home).items() if number in wanted}

    def prune(self, keep: Collection[int]) -> list[int]:
        """Removes the copies of versions that are not in `keep`, and tells which those were."""
        home = home_of(self.name, self.repository)
        with translate_os_errors(home):
            if not home.is_dir():
                return []
            with locked(home, lambda: None):
                stale = [
                    number
                    for number, path in version_directories(home)
                    if number not in keep and _origin(path) is not None
                ]
                for number in stale:
                    _set_aside(home / str(number))
                _tidy(home)
        return stale

    def _lacking(self, wanted: Mapping[int, str]) -> list[int]:
        local = self.local_versions()
        return [number for number in wanted if local.get(number) not in (OWN, wanted[number])]

    def _copy(self, numbers: Collection[int], home: Path, progress: Callable[[str], None]) -> None:
        _tidy(home)
        store = Store(self.url, self.options)
        stored = store.versions()
        try:
            for number in numbers:
                files = stored.get(number, ())
                if not files:
                    raise SourceUnavailable(f"{store.url} has no version {number}")
                part = home / f".{number}.part"
                self._copy_version(number, files, store, part, progress)
                if signature(store.versions().get(number, ())) != signature(files):
                    raise SourceUnavailable(
                        f"version {number} of {store.url} changed while it was copied"
                    )
                _exchange(part, home / str(number))
                progress(f"{self.name}: version {number} is here")
        finally:
            _tidy(home)

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
            tell = Progress(f"{self.name}: {number}/{file.name}", progress)
            _receive(store, file, part / file.name, tell)
        origin = Origin(self.url, signature(files))
        (part / ORIGIN).write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def _check(self, file: StoredFile, url: str) -> None:
        if not _stays_inside(file.name):
            raise SourceUnavailable(f"{url} has a file that no copy can be named: {file.name!r}")
        if file.size is None:
            raise SourceUnavailable(f"{url} does not tell the size of {file.name}")
        if file.size > self.max_bytes:
            raise SourceUnavailable(
                f"{file.name} of {url} is larger than the allowed {self.max_bytes} bytes"
            )


@dataclass(frozen=True)
class Origin:
    """What a version directory is a copy of."""

    url: str
    signature: str


def _origin(version: Path) -> Origin | None:
    try:
        return Origin(**json.loads((version / ORIGIN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Origin("", "")  # a copy for certain, of what nobody knows


def _stays_inside(name: str) -> bool:
    """Whether a store's file name means a file below the directory that it is put in."""
    odd = re.search(r"[\\\x00-\x1f\x7f]", name)
    return not odd and all(part not in ("", ".", "..") for part in name.split("/"))


def _receive(store: Store, file: StoredFile, target: Path, tell: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with target.open("xb") as out:
        for piece in store.read(file):
            done += len(piece)
            out.write(piece)
            tell.at(done, file.size)
        out.flush()
        os.fsync(out.fileno())  # a name that survives a power cut needs bytes that do
    tell.line(done, file.size)


def _exchange(part: Path, version: Path) -> None:
    # Only copies give way: renaming over a directory that came from elsewhere fails, as it should.
    if _origin(version) is not None:
        _set_aside(version)
    part.rename(version)


def _set_aside(version: Path) -> None:
    version.rename(version.with_name(f".{version.name}.old.part"))


def _tidy(home: Path) -> None:
    # Whoever holds the lock owns every part, those of a killed process too.
    for part in home.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
