"""A model's directory in the repository: its lock, and versions that replace what lies there.

Blocks and belongs in a worker thread. All functions raise OSError besides what they name.
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
    """The directory of a model's versions; raises SourceUnavailable when `name` cannot name it."""
    if not PLAIN_NAME.fullmatch(name):
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


def part_of(version: Path) -> Path:
    """Where the files of a version are gathered until all are there."""
    return version.with_name(f".{version.name}.part")


def exchange(part: Path, version: Path, *, disposable: bool) -> None:
    """Gives a complete version its name, which is free for an instant before.

    What had the name is removed by the next `tidy` if it is `disposable`, and otherwise set aside
    under a name that is no version's.
    """
    if os.path.lexists(version):
        (discard if disposable else _set_aside)(version)
    part.rename(version)


def discard(version: Path) -> None:
    """Leaves a version to the next `tidy`."""
    version.rename(version.with_name(f".{version.name}.old.part"))


def tidy(home: Path) -> None:
    """Removes every part, those of a killed process too: they belong to the lock's holder."""
    for part in home.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink()  # a version may be a symbolic link


def _set_aside(version: Path) -> None:
    candidates = (version.with_name(f"{version.name}.aside-{number}") for number in count(1))
    aside = next(path for path in candidates if not os.path.lexists(path))
    version.rename(aside)
    logger.warning(
        "%s is not what the model's source has: it is set aside as %s", version, aside.name
    )
