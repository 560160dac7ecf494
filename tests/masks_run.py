"""A plugin for tests of segmentation: small made-up images with masks, and a run that was fitted on them, once for all files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from drawn_shapes import CLASSES, drawn


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images to learn from and 6 to test on, with masks."""
    root = tmp_path_factory.mktemp("shapes")
    for part, numbers in (("train", range(16)), ("test", range(16, 22))):
        for kind in ("images", "masks"):
            (root / kind / part).mkdir(parents=True)
        for number in numbers:
            for kind, array in zip(("images", "masks"), drawn(number), strict=True):
                Image.fromarray(array).save(root / kind / part / f"{number}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


@pytest.fixture(scope="session")
def shapes_run(shapes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fitted on them; its report has the pictures of the test images."""
    from fitted_run import fitted

    folder = tmp_path_factory.mktemp("runs") / "shapes"
    return fitted(shapes, folder, cache=cache, backbone="lite0@64", epochs=6, batch_size=4)
