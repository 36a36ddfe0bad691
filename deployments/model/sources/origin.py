"""Where the files of a version came from: a record that lies beside them.

Downloads and copies from stores share its format. A version directory without a record was put
there by other means, or by a release that recorded no downloads.
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
    """URLs without their secrets, each with a sum of what it led to.

    A download has the sha384 of each of its files, a copy from a store the signature of the
    version's files at the URL of the source.
    """

    sums: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, sums: Mapping[str, str]) -> "Origin":
        """From sums by their URLs; raises SourceUnavailable when one is no URL."""
        return cls(frozenset((shown(url), text.lower()) for url, text in sums.items()))

    @property
    def urls(self) -> frozenset[str]:
        return frozenset(url for url, _ in self.sums)

    def accounts_for(self, version: Path) -> bool:
        """Whether the files in the directory are the origin's; raises OSError.

        The record of a store names no files: all that lies in a copy counts as copied.
        """
        if not all(url.startswith(("https://", "http://")) for url in self.urls):
            return True
        return holds_only(version, {last_part(url) for url in self.urls})

    def record(self, version: Path) -> None:
        """Writes the record into the directory: whole, or not at all; raises OSError."""
        part = version / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as out:
            json.dump({"sums": dict(sorted(self.sums))}, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        part.replace(version / RECORD)


def recorded(version: Path) -> Origin | None:
    """The origin of a version's files; None without a record that makes sense.

    Raises SourceUnavailable when there is a record that may not be read.
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
    """Whether nothing but `names` and hidden files lies in the directory; raises OSError."""
    return all(path.name.startswith(".") or path.name in names for path in directory.iterdir())


def _parsed(record: Any) -> Origin:
    # Releases that recorded no downloads wrote the URL and the signature of a store's copy.
    sums = record["sums"] if "sums" in record else {record["url"]: record["signature"]}
    if not isinstance(sums, dict) or not sums:
        raise ValueError("no sums")
    if not all(isinstance(text, str) for pair in sums.items() for text in pair):
        raise ValueError("a URL or a sum is no text")
    return Origin.of(sums)
