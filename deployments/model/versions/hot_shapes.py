"""Saves the shapes in most demand on disk, for the next start.

Blocking: call it in worker threads.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployments.inference import InputShapes

logger: Final = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class HotShapes:
    """The file of one model. All replicas on the node write it; the last write counts."""

    file: Path

    def read(self) -> list[InputShapes]:
        """The saved shapes, hottest first; empty if the file is missing or invalid."""
        try:
            found = json.loads(self.file.read_text())
            return [
                tuple(tuple(map(_size, shape)) for shape in shapes) for shapes in found["shapes"]
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("skipping the remembered shapes in %s: %s", self.file.name, error)
            return []

    def write(self, shapes: Sequence[InputShapes]) -> None:
        """Replaces the file atomically. Logs a failure."""
        part = self.file.with_name(f".{self.file.name}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"shapes": shapes}))
            part.replace(self.file)
        except OSError as error:
            logger.warning("cannot remember shapes in %s: %s", self.file, error.strerror)


def _size(size: object) -> int:
    if type(size) is not int or not 0 <= size < 2**31:
        raise ValueError(f"{size!r:.40} is not a size")
    return size
