"""Pictures drawn by tests."""

from pathlib import Path

import numpy as np

from examples.detect_faces import Image, Picture


def scene(width: int, height: int, box: tuple[int, int, int, int] | None = None) -> Image:
    """A dark picture, every channel different, with a white rectangle x_min,y_min,x_max,y_max."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (10, 60, 120)
    image[:, : width // 4, 2] = 200
    if box:
        image[box[1] : box[3] + 1, box[0] : box[2] + 1] = 255
    return image


def picture(name: str, width: int, height: int) -> Picture:
    image = scene(width, height)
    return Picture(Path(name), image, image)
