"""Models from the network: downloaded once into the repository, their sums checked first.

Blocks and belongs in a worker thread.
"""

import fcntl
import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

from deployments.model.sources.local import (
    MODEL_SUFFIXES,
    SourceUnavailable,
    in_words,
    translate_os_errors,
    versions_in,
)

MAX_BYTES = 8 * 2**30

_PLAIN_NAME = re.compile(r"\w[\w .+@()=-]*")
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
    """What `fetch` needs to know of a file; RemoteFile and the settings' own class have it."""

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
        """The name it is stored under; raises SourceUnavailable when the URL has no plain one."""
        return _filename(self.url)


def fetch(
    name: str,
    files: Sequence[RemoteFileLike],
    repository: Path,
    progress: Callable[[str], None],
    *,
    max_bytes: int = MAX_BYTES,
) -> dict[int, Path]:
    """The versions in `<repository>/<name>/`; if there are none, downloads `files` as version 1.

    No file takes its name before the sums of all are right, and the model file takes its name
    last, so that a version with a model file is always complete. Processes that fetch the same
    model wait for each other, and the later ones find the files there. `max_bytes` bounds each
    file. `progress` gets lines for people to read; what it raises ends the download and leaves
    no partial file. Raises SourceUnavailable.
    """
    home = home_of(name, repository)
    with translate_os_errors(home):
        if versions := versions_in(home):
            return versions
        plan = _plan(name, files)
        home.mkdir(parents=True, exist_ok=True)
        waiting = f"{name}: waiting for another process that downloads it"
        with locked(home, lambda: progress(waiting)):
            if not versions_in(home):
                _download(name, plan, home / "1", progress, max_bytes)
                progress(f"{name}: downloaded, all sums are right")
            return versions_in(home)


def home_of(name: str, repository: Path) -> Path:
    """The directory of a model's versions; raises SourceUnavailable when `name` cannot name it."""
    if not _PLAIN_NAME.fullmatch(name):
        raise SourceUnavailable(f"model name {name!r} cannot be the name of a directory")
    return repository / name


@contextmanager
def locked(home: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a model's directory, among threads and processes; tells if it waits."""
    # The file stays: unlinking it would let a waiter and a newcomer hold two different locks.
    with (home / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _plan(name: str, files: Sequence[RemoteFileLike]) -> dict[str, RemoteFileLike]:
    """File names and what to put there, the model file last."""
    plan = {_filename(file.url): file for file in files}
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


def _filename(url: str) -> str:
    filename = unquote(shown(url).rpartition("/")[2])
    if not _PLAIN_NAME.fullmatch(filename):
        raise SourceUnavailable(f"{shown(url)} does not end in a plain file name")
    return filename


def shown(url: str) -> str:
    """The URL without what may be secret in it; raises SourceUnavailable when it is none."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceUnavailable("a file of the source has no valid URL") from error
    # Passwords and signatures stand before the @ and after the ?.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"


def _download(
    name: str,
    plan: dict[str, RemoteFileLike],
    folder: Path,
    progress: Callable[[str], None],
    max_bytes: int,
) -> None:
    folder.mkdir(exist_ok=True)
    parts = {filename: folder / f".{filename}.part" for filename in plan}
    try:
        with _client() as client:
            for filename, file in plan.items():
                tell = Progress(f"{name}: {filename}", progress)
                _receive(client, file, parts[filename], tell, max_bytes)
        for filename, part in parts.items():
            part.replace(folder / filename)
    finally:
        _tidy(folder)


def _tidy(folder: Path) -> None:
    # Whoever holds the lock owns every part, those of a killed process too.
    with suppress(OSError):
        for part in folder.glob(".*.part"):
            part.unlink()
        folder.rmdir()  # refuses, as it should, when something is in there


class _Refused(httpx.HTTPError):
    """Raised when a download is given up by choice; the text is the reason in words."""


def _client() -> httpx.Client:
    try:
        return httpx.Client(
            follow_redirects=True,
            timeout=httpx.Timeout(30, connect=10),
            headers={"accept-encoding": "identity"},
            event_hooks={"request": [_refuse_plain_http]},  # sees every redirect as well
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
    client: httpx.Client, file: RemoteFileLike, part: Path, tell: "Progress", max_bytes: int
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
                tell.at(done, total)
            out.flush()
            os.fsync(out.fileno())  # a name that survives a power cut needs bytes that do
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceUnavailable(f"{shown(file.url)} cannot be downloaded: {_why(error)}") from error
    tell.line(done, total)
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
    """Why there is no connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no secure connection"
    return in_words(error)


class Progress:
    """Tells a line about one file every 5 % or every second, whichever comes first."""

    def __init__(self, label: str, tell: Callable[[str], None]) -> None:
        self._label, self._tell = label, tell
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
            self._tell(f"{text} {word}")
        else:
            percent = done * 100 // total if total else 100
            self._tell(f"{text} of {total / unit:.1f} {word} ({percent} %)")
