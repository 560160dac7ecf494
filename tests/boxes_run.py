"""A plugin for tests of detection: small made-up images with boxes, and a run that was fitted on them, once for all files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from drawn_scenes import scene
from made_boxes import Thing, voc_text, write_text


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to learn from and 8 to test on, with boxes as of Pascal VOC."""
    root = tmp_path_factory.mktemp("scenes")
    for part, numbers in (("train", range(24)), ("test", range(24, 32))):
        (root / part).mkdir()
        for number in numbers:
            pixels, things = scene(number)
            Image.fromarray(pixels).save(root / part / f"{number}.png")
            one_based = [Thing(label, (box[0] + 1, box[1] + 1, box[2], box[3])) for label, box in things]
            write_text(root / part / f"{number}.xml", voc_text(f"{number}.png", pixels.shape[:2], one_based))
    return root


@pytest.fixture(scope="session")
def scenes_run(scenes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fitted on them; its report has the pictures of the test images."""
    from fitted_run import fitted

    folder = tmp_path_factory.mktemp("runs") / "scenes"
    return fitted(scenes, folder, cache=cache, backbone="lite0@96", epochs=25, batch_size=8)
