"""Compilations on disk: OpenVINO's `CACHE_DIR`, a directory for each shape, within a bound.

OpenVINO itself never removes what it wrote, and each file holds the model's weights once more.
Blocks and belongs in a worker thread.
"""

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

logger: Final = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class CompileCache:
    """The compilations of one model below `directory`, which replicas of a node share.

    What OpenVINO writes there it finds again by a hash of the graph, the weights and the
    properties, so that changed files never bring old results.
    """

    directory: Path
    bound_bytes: int

    def place(self, shapes: str) -> Path | None:
        """Where the compilation for these shapes is kept, now the most recently used one.

        None if nothing can be kept there.
        """
        digest = hashlib.blake2s(shapes.encode(), digest_size=10).hexdigest()
        place = self.directory / digest
        try:
            place.mkdir(parents=True, exist_ok=True)
            os.utime(place)
        except OSError as error:
            logger.warning("nothing is kept in cache_dir %s: %s", place.parent, error.strerror)
            return None
        return place

    def prune(self) -> None:
        """Removes what was not used for longest, until the rest is within the bound."""
        try:
            places = [(place.stat().st_mtime, _size(place), place) for place in self._places()]
        except OSError:  # another replica is at it
            return
        excess = sum(size for _, size, _ in places) - self.bound_bytes
        for _, size, place in sorted(places):
            if excess <= 0:
                break
            shutil.rmtree(place, ignore_errors=True)
            excess -= size

    def _places(self) -> list[Path]:
        return [place for place in self.directory.iterdir() if place.is_dir()]


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.iterdir())
