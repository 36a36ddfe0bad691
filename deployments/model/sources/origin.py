"""The record of a version's origin, in the version's directory.

Downloads and copies from stores share its format. A version directory without a record was created
by other means, or by a release that recorded no downloads.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deployments.model.sources.local import SourceUnavailable
from deployments.model.sources.urls import last_part, shown

RECORD: Final = ".origin.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """URLs without their secrets, each with a checksum of its content.

    A download has the SHA-384 of each file. A copy from a store has the signature of the version's
    files, at the URL of the source.
    """

    sums: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, sums: Mapping[str, str]) -> "Origin":
        """Makes an origin of checksums by URL. Raises SourceUnavailable if a URL is invalid."""
        return cls(frozenset((shown(url), text.lower()) for url, text in sums.items()))

    @property
    def urls(self) -> frozenset[str]:
        return frozenset(url for url, _ in self.sums)

    def accounts_for(self, version: Path) -> bool:
        """Whether all files in the directory are from the origin; raises OSError.

        The record of a store names no files, so all files in its copy count as copied.
        """
        if not all(url.startswith(("https://", "http://")) for url in self.urls):
            return True
        return holds_only(version, {last_part(url) for url in self.urls})

    def record(self, version: Path) -> None:
        """Writes the record into the directory, atomically; raises OSError."""
        part = version / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as out:
            json.dump({"sums": dict(sorted(self.sums))}, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        part.replace(version / RECORD)


def recorded(version: Path) -> Origin | None:
    """The origin of a version's files; None without a valid record.

    Raises SourceUnavailable if the record cannot be read.
    """
    try:
        text = (version / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = (error.strerror or "input or output failed").lower()
        raise SourceUnavailable(f"{version / RECORD} cannot be read: {reason}") from error
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, SourceUnavailable):
        return None


def holds_only(directory: Path, names: Collection[str]) -> bool:
    """Whether the directory has only `names` and hidden files; raises OSError."""
    return all(path.name.startswith(".") or path.name in names for path in directory.iterdir())


def _parsed(record: Any) -> Origin:
    # Old releases, which recorded no downloads, wrote one URL and the signature of the copy.
    sums = record["sums"] if "sums" in record else {record["url"]: record["signature"]}
    if not isinstance(sums, dict) or not sums:
        raise ValueError("no sums")
    if not all(isinstance(text, str) for pair in sums.items() for text in pair):
        raise ValueError("a URL or a sum is no text")
    return Origin.of(sums)
