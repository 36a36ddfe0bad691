"""A model's directory in the repository: its lock, and the exchange of version directories.

Blocking: call it in worker threads. All functions raise OSError, besides the errors they name.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from deployments.model.sources.local import SourceUnavailable
from deployments.model.sources.urls import PLAIN_NAME

logger: Final = logging.getLogger("ray.serve")


def home_of(name: str, repository: Path) -> Path:
    """The directory of a model's versions. Raises SourceUnavailable if `name` is not plain."""
    if not PLAIN_NAME.fullmatch(name):
        raise SourceUnavailable(f"model name {name!r} cannot be the name of a directory")
    return repository / name


@contextmanager
def locked(home: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Locks a model's directory among threads and processes; calls `waiting` if it waits."""
    # The file stays: after an unlink, a waiter and a newcomer could hold two different locks.
    with (home / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def part_of(version: Path) -> Path:
    """The directory that receives the files of a version until it is complete."""
    return version.with_name(f".{version.name}.part")


def exchange(part: Path, version: Path, *, disposable: bool) -> None:
    """Gives a complete version its name, which is free for an instant before.

    The next `tidy` removes the directory that had the name if it is `disposable`. Otherwise this
    sets it aside, under a name that is not a version number.
    """
    if os.path.lexists(version):
        (discard if disposable else _set_aside)(version)
    part.rename(version)


def discard(version: Path) -> None:
    """Renames a version, so that the next `tidy` removes it."""
    version.rename(version.with_name(f".{version.name}.old.part"))


def tidy(home: Path) -> None:
    """Removes all parts, also those of killed processes; the caller must hold the lock."""
    for part in home.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink()  # a version may be a symbolic link


def _set_aside(version: Path) -> None:
    candidates = (version.with_name(f"{version.name}.aside-{number}") for number in count(1))
    aside = next(path for path in candidates if not os.path.lexists(path))
    version.rename(aside)
    logger.warning("%s differs from the model's source: it is set aside as %s", version, aside.name)
