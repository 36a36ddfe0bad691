"""Compilations on disk: OpenVINO's `CACHE_DIR`, a directory for each shape, within a bound.

OpenVINO never removes what it wrote, and each file has a copy of the model's weights. Blocking:
call it in a worker thread.
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

    OpenVINO finds a file there by a hash of the graph, the weights and the properties, so changed
    models never get old compilations.
    """

    directory: Path
    bound_bytes: int

    def place(self, shapes: str) -> Path | None:
        """The directory of the compilation for these shapes, marked as the most recently used.

        None if the directory cannot be made.
        """
        digest = hashlib.blake2s(shapes.encode(), digest_size=10).hexdigest()
        place = self.directory / digest
        try:
            place.mkdir(parents=True, exist_ok=True)
            os.utime(place)
        except OSError as error:
            logger.warning(
                "cannot keep compilations in cache_dir %s: %s", place.parent, error.strerror
            )
            return None
        return place

    def prune(self) -> None:
        """Removes the least recently used compilations until the rest is within the bound."""
        try:
            places = [(place.stat().st_mtime, _size(place), place) for place in self._places()]
        except OSError:  # another replica is pruning
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
