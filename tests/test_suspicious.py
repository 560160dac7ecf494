"""Odd files that can be read: each kind planted among ordinary photographs, and none seen where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import draw
from headstart.audit import check
from headstart.data import read_dataset

KINDS = {"misnamed", "tiny", "strips", "nearly empty"}


def ordinary(folder: Path) -> None:
    for kind, name in enumerate(("rings", "stripes")):
        (folder / name).mkdir(parents=True)
        for seed in range(8):
            Image.fromarray(draw(kind, seed, side=96)).save(folder / name / f"{seed}.jpg", quality=90)


def odd(folder: Path) -> dict[str, tuple[str, ...]]:
    audit = check(read_dataset(folder))
    return {finding.kind: finding.examples for finding in audit.findings if finding.kind in KINDS}


def test_ordinary_files_are_not_odd(tmp_path: Path) -> None:
    ordinary(tmp_path)
    assert odd(tmp_path) == {}


def test_each_kind_is_named_with_its_file_and_nothing_else(tmp_path: Path) -> None:
    ordinary(tmp_path)
    rings = tmp_path / "rings"
    Image.fromarray(draw(0, 20, side=96)).save(rings / "really.jpg", format="PNG")
    Image.fromarray(draw(0, 21, side=10)).save(rings / "icon.jpg", quality=90)
    Image.fromarray(np.tile(draw(0, 22, side=48), (1, 8, 1))).save(rings / "banner.jpg", quality=90)
    Image.fromarray(np.full((96, 96, 3), 127, np.uint8)).resize((960, 960)).save(rings / "blank.jpg", quality=90)
    found = odd(tmp_path)
    assert {kind: [example.partition(":")[0] for example in examples] for kind, examples in found.items()} == {
        "misnamed": ["rings/really.jpg"], "tiny": ["rings/icon.jpg"], "strips": ["rings/banner.jpg"], "nearly empty": ["rings/blank.jpg"],
    }  # fmt: skip
    assert found["misnamed"] == ("rings/really.jpg: is PNG",)


def test_arrays_have_no_files() -> None:
    from headstart.data import dataset_from_arrays

    images = np.stack([draw(0, seed) for seed in range(12)])
    assert not {finding.kind for finding in check(dataset_from_arrays(images, ["a", "b"] * 6)).findings} & KINDS
