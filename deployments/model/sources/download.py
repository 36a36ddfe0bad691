"""Downloads models into the repository, and verifies their checksums.

Blocking: call it in worker threads.
"""

import hashlib
import logging
import os
import shutil
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

import httpx

from deployments.model.sources.local import (
    MODEL_SUFFIXES,
    SourceUnavailable,
    as_read,
    in_words,
    translate_os_errors,
)
from deployments.model.sources.origin import Origin, holds_only, recorded
from deployments.model.sources.repository import exchange, home_of, locked, part_of, tidy
from deployments.model.sources.urls import file_name, shown

logger: Final = logging.getLogger("ray.serve")

MAX_BYTES = 8 * 2**30

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpx.InvalidURL, "it is not a valid URL"),
    (httpx.ConnectTimeout, "no connection within 10 s"),
    (httpx.TimeoutException, "the server was silent for 30 s"),
    (httpx.TooManyRedirects, "too many redirects"),
    (httpx.ProxyError, "the proxy refuses the connection"),
    (httpx.NetworkError, "the connection broke off"),
    (httpx.RemoteProtocolError, "the connection broke off"),
)


class RemoteFileLike(Protocol):
    """The part of RemoteFile, and of the class in the settings, that `fetch` uses."""

    @property
    def url(self) -> str: ...

    @property
    def sha384(self) -> str: ...


@dataclass(frozen=True)
class RemoteFile:
    """A file to download and its SHA-384 in hexadecimal digits."""

    url: str
    sha384: str

    @property
    def filename(self) -> str:
        """The file's name in the repository. Raises SourceUnavailable if it is not plain."""
        return file_name(self.url)


def fetch(
    name: str,
    files: Sequence[RemoteFileLike],
    repository: Path,
    progress: Callable[[str], None],
    *,
    max_bytes: int = MAX_BYTES,
) -> dict[int, Path]:
    """Returns version 1 in `<repository>/<name>/`, with the path that OpenVINO reads.

    Downloads the files that the record of a download does not name or, without a record, those
    whose checksum differs. Existing files keep their place until the checksums of all new files
    match. Then those that a record names are removed, and others are set aside. Processes that
    fetch the same model wait for each other, and the later ones find the files there. `max_bytes`
    bounds each file. `progress` gets lines for people to read; an exception from it ends the
    download and leaves no partial file. Raises SourceUnavailable.
    """
    version = home_of(name, repository) / "1"
    download = _Download(name, _plan(name, files), version, progress)
    with translate_os_errors(version.parent):
        if not download.is_here() and not download.is_read_only():
            version.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"{name}: waiting for another process that downloads it"
            with locked(version.parent, lambda: progress(waiting)):
                if not download.is_here():  # another process may have been here
                    download.complete(max_bytes)
    return {1: as_read(version / download.model_file)}


def _plan(name: str, files: Sequence[RemoteFileLike]) -> dict[str, RemoteFileLike]:
    """Maps file names to their sources, the model file last."""
    plan = {file_name(file.url): file for file in files}
    if len(plan) != len(files):
        raise SourceUnavailable(f"two files of model {name} have the same name")
    models = [filename for filename in plan if Path(filename).suffix in MODEL_SUFFIXES]
    if len(models) != 1:
        named = ", ".join(models) or "none"
        raise SourceUnavailable(
            f"model {name} needs exactly one model file, its source has {named}"
        )
    plan[models[0]] = plan.pop(models[0])
    return plan


class _Download:
    """The files of one version, present and still to be downloaded."""

    def __init__(
        self,
        name: str,
        plan: dict[str, RemoteFileLike],
        version: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._name, self._plan, self._version, self._progress = name, plan, version, progress
        self._origin = Origin.of({file.url: file.sha384 for file in plan.values()})
        self.model_file = next(reversed(plan))

    def is_here(self) -> bool:
        """Whether the record names this download, which it does once all checksums have matched."""
        return recorded(self._version) == self._origin and all(
            (self._version / filename).is_file() for filename in self._plan
        )

    def is_read_only(self) -> bool:
        """Whether all files are present and correct in a directory that is read-only."""
        places = (self._version.parent, self._version)
        return (
            self._version.is_dir()
            and not all(os.access(place, os.W_OK) for place in places)
            and recorded(self._version) is None
            and self._sums() == self._wanted()
        )

    def complete(self, max_bytes: int) -> None:
        """Records the files if they are all correct, else downloads and exchanges them."""
        home, here = self._version.parent, recorded(self._version)
        if here == self._origin:
            here = None  # a file is missing, so the record does not vouch for the others
        for leftover in self._version.glob(".*.part"):
            with suppress(OSError):
                leftover.unlink()  # older releases downloaded to there
        sums = self._sums()
        right = {
            name: digest for name, digest in sums.items() if self._is_right(name, digest, here)
        }
        if right == self._wanted() and (here is None or here.urls <= self._origin.urls):
            self._origin.record(self._version)
            self._progress(f"{self._name}: the checksums of the existing files match")
            return
        disposable = self._version.is_dir() and (
            here.accounts_for(self._version) if here else holds_only(self._version, right)
        )
        tidy(home)
        try:
            # Other programs may write to a file that is set aside, so it must not share a link.
            part = self._gather(right, _link if disposable else shutil.copyfile, max_bytes)
            exchange(part, self._version, disposable=disposable)
        finally:
            tidy(home)
        if here is None:
            self._log_replaced(sums)
        self._progress(f"{self._name}: downloaded, all checksums match")

    def _gather(
        self, right: Collection[str], take: Callable[[Path, Path], object], max_bytes: int
    ) -> Path:
        part = part_of(self._version)
        part.mkdir()
        for filename in right:
            take(self._version / filename, part / filename)
        with _client() as client:
            for filename, file in self._plan.items():
                if filename not in right:
                    report = Progress(f"{self._name}: {filename}", self._progress)
                    _receive(client, file, part / filename, report, max_bytes)
        self._origin.record(part)
        return part

    def _wanted(self) -> dict[str, str]:
        return {filename: file.sha384.lower() for filename, file in self._plan.items()}

    def _sums(self) -> dict[str, str]:
        """The checksums of the files that exist."""
        paths = {filename: self._version / filename for filename in self._plan}
        return {filename: _sha384(path) for filename, path in paths.items() if path.is_file()}

    def _is_right(self, filename: str, digest: str, here: Origin | None) -> bool:
        """Whether an existing file is correct, and from its URL if there is a record."""
        file = self._plan[filename]
        known = here is None or shown(file.url) in here.urls
        return known and digest == file.sha384.lower()

    def _log_replaced(self, sums: dict[str, str]) -> None:
        for filename, sha384 in self._wanted().items():
            if sums.get(filename, sha384) != sha384:
                logger.warning(
                    "model '%s': %s had sha384 %.12s..., not %.12s... as in the settings, "
                    "and was downloaded again",
                    *(self._name, filename, sums[filename], sha384),
                )


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # not every filesystem has hard links
        shutil.copyfile(file, target)


def _sha384(file: Path) -> str:
    facts = file.stat()
    return _sha384_once(file, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)  # in a read-only directory each look at the source needs it
def _sha384_once(file: Path, *_facts: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha384").hexdigest()


class _Refused(httpx.HTTPError):
    """Raised when this module refuses a download; the text has the reason."""


def _client() -> httpx.Client:
    try:
        return httpx.Client(
            follow_redirects=True,
            timeout=httpx.Timeout(30, connect=10),
            headers={"accept-encoding": "identity"},
            event_hooks={"request": [_refuse_plain_http]},  # called for each redirect too
        )
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        text = "nothing can be downloaded: the environment's proxy or certificates cannot be used"
        raise SourceUnavailable(text) from error


def _refuse_plain_http(request: httpx.Request) -> None:
    url = request.url
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise _Refused(f"only https is allowed, not {shown(str(url))}")


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _receive(
    client: httpx.Client, file: RemoteFileLike, part: Path, report: "Progress", max_bytes: int
) -> None:
    digest, done = hashlib.sha384(), 0
    try:
        with client.stream("GET", file.url) as response, part.open("wb") as out:
            total = _announced_bytes(response)
            _refuse_above(max_bytes, total or 0)
            for chunk in response.iter_bytes():
                done += len(chunk)
                _refuse_above(max_bytes, done)
                digest.update(chunk)
                out.write(chunk)
                report.at(done, total)
            out.flush()
            os.fsync(out.fileno())  # before the rename, so that a power cut cannot leave it empty
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceUnavailable(f"{shown(file.url)} cannot be downloaded: {_why(error)}") from error
    report.line(done, total)
    if digest.hexdigest() != file.sha384.lower():
        raise SourceUnavailable(
            f"{shown(file.url)} has sha384 {digest.hexdigest()}, expected {file.sha384}"
        )


def _announced_bytes(response: httpx.Response) -> int | None:
    if response.status_code != httpx.codes.OK:
        phrase = httpx.codes.get_reason_phrase(response.status_code)
        raise _Refused(f"the server answers {response.status_code} {phrase}".rstrip())
    length = response.headers.get("content-length")
    return int(length) if length and "content-encoding" not in response.headers else None


def _refuse_above(max_bytes: int, count: int) -> None:
    if count > max_bytes:
        raise _Refused(f"it is larger than the allowed {max_bytes} bytes")


def _why(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, httpx.ConnectError) and (root := _root(error)):
        return broken_connection(root)
    matching = (text for kind, text in _REASONS if isinstance(error, kind))
    return next(matching, "the server's answer cannot be read")


def _root(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def broken_connection(error: OSError) -> str:
    """The reason why a connection failed, for error texts."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no secure connection"
    return in_words(error)


class Progress:
    """Reports the progress of one file, every 5 % or every second, whichever comes first."""

    def __init__(self, label: str, report: Callable[[str], None]) -> None:
        self._label, self._report = label, report
        self._percent, self._time = 0, time.monotonic()

    def at(self, done: int, total: int | None) -> None:
        percent, now = done * 100 // total if total else 0, time.monotonic()
        if done != total and (percent >= self._percent + 5 or now >= self._time + 1):
            self._percent, self._time = percent, now
            self.line(done, total)

    def line(self, done: int, total: int | None) -> None:
        size = done if total is None else total
        unit, word = (10**6, "MB") if size >= 10**6 else (1000, "kB")
        text = f"{self._label} {done / unit:.1f}"
        if total is None:
            self._report(f"{text} {word}")
        else:
            percent = done * 100 // total if total else 100
            self._report(f"{text} of {total / unit:.1f} {word} ({percent} %)")
