"""A plugin for tests of detection: small made-up images with boxes, and a run that was fitted on them, once for all files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_boxes import Thing, voc_text, write_text

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
    from conftest import CARDS_OF
    from headstart import FineTuning, FitSettings, fit
    from headstart.report import run_report

    folder = tmp_path_factory.mktemp("runs") / "scenes"
    training = FineTuning(strategy="probe", epochs=25, batch_size=8, label_smoothing=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_report, "cards_of", CARDS_OF)
        fit(scenes, out=folder, settings=FitSettings(cache=cache, backbone="lite0@96", fine_tuning=training))
    return folder


