"""Shortcuts: frames and JPEG compression are measured exactly, and planted ones are found and named; the older properties: test_audit."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.audit import Finding, check
from headstart.audit.facts import Frame, find_frame, inspect_file
from headstart.data import dataset_from_arrays, dataset_from_paths, read_dataset


def photo(seed: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth picture with some noise, bright enough that no side of it is of one colour."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def framed(pixels: np.ndarray, *, across: int, along: int, grey: int) -> np.ndarray:
    pixels = pixels.copy()
    if across:
        pixels[:, :across] = pixels[:, -across:] = grey
    if along:
        pixels[:along] = pixels[-along:] = grey
    return pixels


def written(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def shortcuts(folder: Path) -> list[Finding]:
    return [finding for finding in check(read_dataset(folder)).findings if finding.kind == "shortcut"]


def named(found: list[Finding]) -> set[str]:
    return {finding.message.removeprefix("From the ").partition(" alone")[0] for finding in found}


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize(("across", "along"), [(2, 2), (5, 5), (3, 0), (0, 4), (2, 6), (0, 14)])
def test_frames_are_measured(across, along, grey):
    for seed in range(5):
        bold = np.where(photo(seed)[:, :, :1] < 128, 40, 215).astype(np.uint8).repeat(3, axis=2)  # no grey of any of the frames
        assert find_frame(framed(bold, across=across, along=along, grey=grey)) == Frame(across, along, grey)


def test_frames_are_measured_through_jpeg():
    widths = []
    for seed in range(20):
        file = io.BytesIO()
        Image.fromarray(framed(photo(seed, width=200, height=150), across=2, along=2, grey=0)).save(file, "JPEG", quality=75)
        widths.append(find_frame(np.asarray(Image.open(file))).around)
    assert np.mean(np.array(widths) == 2) >= 0.9


def test_pictures_without_a_frame():
    assert all(find_frame(photo(seed)) == Frame(0, 0, -1) for seed in range(20))
    left_only = photo(0)
    left_only[:, :4] = 0
    assert find_frame(left_only) == Frame(0, 0, -1)
    black_and_white = photo(1)
    black_and_white[:, :4], black_and_white[:, -4:] = 0, 255
    assert find_frame(black_and_white) == Frame(0, 0, -1)


def test_odd_pictures():
    assert find_frame(np.full((80, 40, 3), 7, np.uint8)) == Frame(0, 0, -1)  # all of one colour: no frame around anything
    assert find_frame(np.zeros((1, 1, 3), np.uint8)) == Frame(0, 0, -1)
    drawing = np.zeros((60, 60, 3), np.uint8)
    drawing[15:45, 22:38] = 255
    assert find_frame(drawing) == Frame(0, 0, -1)  # the plain ground of a stroke
    assert Frame(2, 4, 9).around == 2
    assert Frame(2, 0, 9).scaled(3.0) == Frame(6, 0, 9)
    assert Frame(2, 2, 9).scaled(0.1) == Frame(1, 1, 9)


@pytest.mark.parametrize("quality", [10, 35, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_what_it_was_saved_with(tmp_path, quality):
    fact = inspect_file(written(tmp_path / "x.jpg", photo(0), quality=quality, subsampling="4:2:2"), at_least=32)
    assert fact.quality == pytest.approx(quality, abs=1)
    assert fact.sampling == "4:2:2"


def test_the_sampling_of_a_jpeg(tmp_path):
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        assert inspect_file(written(tmp_path / "x.jpg", photo(0), subsampling=sampling), at_least=32).sampling == sampling
    assert inspect_file(written(tmp_path / "grey.jpg", photo(0)[:, :, 0]), at_least=32).sampling == ""
    png = inspect_file(written(tmp_path / "x.png", photo(0)), at_least=32, framed=True)
    assert (png.quality, png.sampling, png.frame) == (0.0, "", Frame(0, 0, -1))
    assert inspect_file(tmp_path / "x.png", at_least=32).frame is None


def test_frames_are_told_in_pixels_of_the_file(tmp_path):
    large = written(tmp_path / "x.jpg", framed(photo(0, width=1600, height=1200), across=16, along=16, grey=255), quality=95)
    frame = inspect_file(large, at_least=512, framed=True).frame
    assert frame is not None
    assert frame.around == pytest.approx(16, abs=3)


def test_a_border_is_found_and_named(tmp_path):
    for i in range(40):
        written(tmp_path / "ill" / f"{i:02d}.jpg", framed(photo(i), across=2, along=2, grey=0), quality=85)
        written(tmp_path / "well" / f"{i:02d}.jpg", photo(1000 + i), quality=85)
    found = shortcuts(tmp_path)
    assert named(found) == {"border"}
    assert found[0].severity == "warning"
    assert "the class can be predicted in 100% of cases (chance: 50%" in found[0].message
    assert found[0].message.endswith("Cut the border off, from all images.")
    assert found[0].examples == ("ill: 100% with a frame (median 2 pixels wide, brightness 3 of 255)", "well: 100% without")


def test_borders_of_another_colour_and_bars(tmp_path):
    for i in range(40):
        written(tmp_path / "colour/ill" / f"{i:02d}.png", framed(photo(i), across=3, along=3, grey=0))
        written(tmp_path / "colour/well" / f"{i:02d}.png", framed(photo(1000 + i), across=3, along=3, grey=255))
        written(tmp_path / "bars/film" / f"{i:02d}.png", framed(photo(i), across=0, along=5, grey=0))
        written(tmp_path / "bars/phone" / f"{i:02d}.png", framed(photo(1000 + i), across=4, along=0, grey=0))
    assert "border" in named(shortcuts(tmp_path / "colour"))
    (bars,) = (finding for finding in shortcuts(tmp_path / "bars") if "the border" in finding.message)
    assert bars.examples == (
        "film: 100% with bars at top and bottom (median 5 pixels wide, brightness 0 of 255)",
        "phone: 100% with bars left and right (median 4 pixels wide, brightness 0 of 255)",
    )


def test_a_border_in_an_array():
    images = np.stack([framed(photo(i), across=2, along=2, grey=0) if i % 2 else photo(i) for i in range(80)])
    audit = check(dataset_from_arrays(images, np.array(["a", "b"])[np.arange(80) % 2]))
    assert named([finding for finding in audit.findings if finding.kind == "shortcut"]) == {"border"}


def test_another_jpeg_quality_is_found_and_named(tmp_path):
    for i in range(40):
        written(tmp_path / "ill" / f"{i:02d}.jpg", photo(i), quality=75)
        written(tmp_path / "well" / f"{i:02d}.jpg", photo(1000 + i), quality=90)
    found = shortcuts(tmp_path)
    assert named(found) == {"JPEG compression"}  # and not the file size, which follows from it
    assert found[0].severity == "warning"
    assert found[0].examples[0] == "ill: quality about 75, colours 4:2:0 100%"
    assert found[0].examples[1].startswith("well: quality about 90, ")


def test_jpeg_compression_is_measured_among_jpegs(tmp_path):
    for i in range(40):
        for label in ("a", "b"):
            pixels = photo(i + 1000 * (label == "a"))
            if i % 2:
                written(tmp_path / label / f"{i:02d}.jpg", pixels, quality=70 if label == "a" else 92)
            else:
                written(tmp_path / label / f"{i:02d}.png", pixels)
    (finding,) = (finding for finding in shortcuts(tmp_path) if "JPEG" in finding.message)
    assert "the class can be predicted in 100% of cases" in finding.message


def test_png_for_one_class_is_the_format_and_nothing_else(tmp_path):
    for i in range(40):
        written(tmp_path / "ill" / f"{i:02d}.png", photo(i))
        written(tmp_path / "well" / f"{i:02d}.jpg", photo(1000 + i))
    found = shortcuts(tmp_path)
    assert named(found) == {"file format"}
    assert found[0].examples == ("ill: PNG 100%", "well: JPEG 100%")


def test_one_class_of_many_is_named(tmp_path):
    for label in range(8):
        for i in range(20):
            written(tmp_path / f"{label}" / (f"{i:02d}.png" if label == 5 else f"{i:02d}.jpg"), photo(i + 1000 * label))
    found = shortcuts(tmp_path)
    assert named(found) == {"file format"}
    assert found[0].severity == "warning"
    assert "1 of 8 classes can be distinguished from all others: '5' (100% of it; 0% of the others are taken for it)." in found[0].message
    assert found[0].examples[0] == "5: PNG 100%"


def test_another_aspect_ratio_is_found_and_named(tmp_path):
    random = np.random.default_rng(0)
    for i in range(60):
        for label, ratio in (("wide", 1.5), ("tall", 0.75)):
            height = int(random.integers(30, 90))
            written(tmp_path / label / f"{i:02d}.png", photo(i + 1000 * (ratio > 1), width=round(height * ratio), height=height))
    (finding,) = (finding for finding in shortcuts(tmp_path) if "aspect ratio" in finding.message)
    assert "the class can be predicted in 100% of cases" in finding.message
    assert finding.examples == ("tall: median 0.75 (width / height)", "wide: median 1.50 (width / height)")


def test_qualities_and_borders_that_do_not_depend_on_the_class_are_no_shortcut(tmp_path):
    random = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        for i in range(60):
            pixels = photo(int(random.integers(1 << 30)))
            if random.random() < 0.5:
                pixels = framed(pixels, across=2, along=2, grey=int(random.choice([0, 255])))
            written(tmp_path / label / f"{i:02d}.jpg", pixels, quality=int(random.integers(60, 96)))
    assert shortcuts(tmp_path) == []


def test_only_some_images_of_a_large_set_are_looked_at_closely(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.audit.facts._FRAMES", 60)
    written(tmp_path / "x.png", photo(0))
    paths = [tmp_path / "x.png"] * 300
    from headstart.audit import gather

    data = dataset_from_paths(paths, ["a"] * 100 + ["b"] * 150 + ["c"] * 50)
    closely = np.array([row.frame is not None for row in gather(data, deep=False, progress=None).rows])
    assert [closely[data.targets.array == target].sum() for target in range(3)] == [20, 20, 20]
    assert all(row.frame is not None for row in gather(data, deep=True, progress=None).rows)


@pytest.mark.data
def test_shortcuts_planted_in_photographs(shared_data, tmp_path):
    """Of 60 cats and 60 dogs, the cats get a border, or another quality; the photographs as they are have neither."""
    for label in ("cats", "dogs"):
        for path in sorted((shared_data / "cats_dogs" / "train" / label).iterdir())[:60]:
            (tmp_path / "clean" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "clean" / label)
            with Image.open(path) as image:
                pixels, tables = np.asarray(image.convert("RGB")), image.quantization
            bordered = framed(pixels, across=2, along=2, grey=0) if label == "cats" else pixels
            written(tmp_path / "border" / label / path.name, bordered, qtables=tables)
            options = {"quality": 70} if label == "cats" else {"qtables": tables}
            written(tmp_path / "quality" / label / path.name, pixels, **options)
    assert shortcuts(tmp_path / "clean") == []
    assert "border" in named(shortcuts(tmp_path / "border"))
    assert "JPEG compression" in named(shortcuts(tmp_path / "quality"))
