"""The shapes that were asked for most, remembered on disk from one start to the next.

Blocks and belongs in a worker thread.
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
    """A file for one model, written by all replicas of the node: the last one's word counts."""

    file: Path

    def read(self) -> list[InputShapes]:
        """The hottest first; none if there is no such file or it cannot be understood."""
        try:
            found = json.loads(self.file.read_text())
            return [
                tuple(tuple(map(_size, shape)) for shape in shapes) for shapes in found["shapes"]
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("remembered shapes are left out, %s: %s", self.file.name, error)
            return []

    def write(self, shapes: Sequence[InputShapes]) -> None:
        """Takes its name when it is complete."""
        part = self.file.with_name(f".{self.file.name}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"shapes": shapes}))
            part.replace(self.file)
        except OSError as error:
            logger.warning("shapes are not remembered in %s: %s", self.file, error.strerror)


def _size(size: object) -> int:
    if type(size) is not int or not 0 <= size < 2**31:
        raise ValueError(f"{size!r:.40} is no size")
    return size
