"""Draw the pictures that the built-in model `spots` reads.

python examples/spots_picture.py out.png --width 600 --height 400 --count 8 --seed 1
"""

import argparse
import random
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Spot = tuple[int, int, int]

RADII = (5, 40)
TEXTURE = 6.0  # standard deviation of the background's slow waves, in grey levels


def random_spots(width: int, height: int, count: int, seed: int) -> list[Spot]:
    """Place `count` spots (x, y, radius in pixels) well apart from each other and the border.

    Raises ValueError if the picture is too small.
    """
    chance = random.Random(seed)
    spots: list[Spot] = []
    for _ in range(1000 * count):
        if len(spots) == count:
            return spots
        radius = chance.randint(RADII[0], max(RADII[0], min(RADII[1], width // 7, height // 7)))
        margin = radius + 4
        if width < 2 * margin or height < 2 * margin:
            break
        x, y = chance.randint(margin, width - margin), chance.randint(margin, height - margin)
        if all(_apart((x, y, radius), other) for other in spots):
            spots.append((x, y, radius))
    if len(spots) == count:
        return spots
    raise ValueError(f"no room for {count} spots in a picture of {width}x{height} pixels")


def spots_picture(
    width: int,
    height: int,
    spots: Sequence[tuple[float, float, float]],
    *,
    seed: int = 0,
    noise: float = 8.0,
) -> NDArray[np.uint8]:
    """Draw bright discs (x, y, radius) on a dark, textured, noisy background: HWC, BGR.

    Pixel i covers [i, i + 1), so the box around a spot is exactly x - radius .. x + radius.
    """
    chance = np.random.default_rng(seed)
    waves = chance.normal(0.0, TEXTURE, (height // 32 + 2, width // 32 + 2))
    texture = cv2.resize(waves, (width, height), interpolation=cv2.INTER_CUBIC)
    tint = chance.uniform(25.0, 50.0, 3)
    picture = tint + texture[..., np.newaxis]
    rows, columns = np.mgrid[:height, :width] + 0.5
    for x, y, radius in spots:
        cover = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0.0, 1.0)[..., np.newaxis]
        color = chance.uniform(130.0, 230.0) + chance.uniform(-25.0, 25.0, 3)
        picture = picture * (1.0 - cover) + color * cover
    picture += chance.normal(0.0, noise, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _apart(spot: Spot, other: Spot) -> bool:
    """Whether the dark gap between two spots is at least the larger one's radius."""
    distance = float(np.hypot(spot[0] - other[0], spot[1] - other[1]))
    return distance >= spot[2] + other[2] + max(spot[2], other[2])


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a picture with bright spots as a PNG file.")
    parser.add_argument("out")
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--height", type=int, default=300)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        spots = random_spots(options.width, options.height, options.count, options.seed)
    except ValueError as error:
        parser.error(str(error))
    picture = spots_picture(options.width, options.height, spots, seed=options.seed)
    if not cv2.imwrite(options.out, picture):
        parser.error(f"cannot write {options.out}")
    for x, y, radius in spots:
        print(f"spot at x={x} y={y}, radius {radius}")


if __name__ == "__main__":
    main()
