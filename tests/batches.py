"""A folder of images for the tests of batch prediction."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from conftest import draw


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
