"""Made-up images of things, with their boxes."""

from __future__ import annotations

import numpy as np

from made_boxes import Thing

CLASSES = ("disc", "plate")
COLOURS = {"disc": (230, 170, 60), "plate": (60, 90, 220)}


def scene(number: int, *, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, list[Thing]]:
    """An image uint8 (H, W, 3) with up to three bright things on dark noise, and their boxes; every eighth image has nothing."""
    rng = np.random.default_rng(number)
    height, width = size
    pixels = rng.integers(30, 70, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    things: list[Thing] = []
    for place in range(0 if number % 8 == 7 else 1 + number % 3):
        label = CLASSES[(number + place) % 2]
        across, down = rng.integers(width // 6, width // 3), rng.integers(height // 5, height // 3)
        left = int(rng.integers(0, width // 3 - across)) + place * width // 3 if across < width // 3 else place * width // 3
        top = int(rng.integers(0, height - down))
        inside = (rows >= top) & (rows < top + down) & (columns >= left) & (columns < left + across)
        if label == "disc":
            y, x = (rows + 0.5 - top) / down * 2 - 1, (columns + 0.5 - left) / across * 2 - 1
            inside &= x**2 + y**2 <= 1
        pixels[inside] = np.array(COLOURS[label]) + rng.integers(-15, 15, (int(inside.sum()), 3))
        things.append(Thing(label, (left, top, left + int(across), top + int(down))))
    return pixels.clip(0, 255).astype(np.uint8), things
