"""A folder of images for the tests of batch prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import draw


def make_foreign(folder: Path, *, count: int = 24) -> Path:
    """Put images of noise into a folder, which are like nothing that was ever drawn."""
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02d}.png")
    return folder


def make_many(folder: Path) -> Path:
    """Put 43 images into a folder, at several depths; two cannot be read, and one of these has an odd name."""
    for index in range(41):
        place = folder / ("a", "a-b", "a/deep", "z")[index % 4]
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(draw(index % 3, index)).save(place / f"{index}.png")
    (folder / 'odd, "name"\n.png').write_bytes(b"no image")
    (folder / "z" / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image either")
    return folder
