"""What the values of masks mean: indices, palettes, colours, lists of classes, smeared values, and what stands for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data import VOID, read_annotations, read_dataset, read_masks
from headstart.errors import DataError, options_typed
from headstart.progress import Warned
from made_masks import BLOCKS, masks_in, pair, photo, write

COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 200]], np.uint8)
INDICES = np.where(BLOCKS == 255, 0, BLOCKS)
"""0 to 3."""
RGB = COLOURS[INDICES]
NAMES = "sky\nroad\ncar\ntree\n"
LABELMAP = "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:128,0,0::\ncar:0,128,0::\ntree:0,0,200::\n"


def paletted(indices: np.ndarray[Any, Any], colours: np.ndarray[Any, Any]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def of_indices(root: Path) -> None:
    pair(root, mask=INDICES)


def of_a_palette(root: Path) -> None:
    photo(root / "images" / "1.jpg")
    saved(paletted(INDICES, np.array([[9, 9, 9], [1, 200, 3], [4, 5, 6], [7, 8, 9]], np.uint8)), root / "masks" / "1.png")


def of_a_palette_in_another_order(root: Path) -> None:
    photo(root / "images" / "1.jpg")
    saved(paletted(3 - INDICES, COLOURS[::-1].copy()), root / "masks" / "1.png")


def of_colours(root: Path) -> None:
    pair(root, mask=RGB)


def of_a_bitmap(root: Path) -> None:
    photo(root / "images" / "1.jpg")
    write(root / "masks" / "1.bmp", RGB)


def of_16_bits(root: Path) -> None:
    pair(root, mask=INDICES.astype(np.uint16))


def of_2_bits(root: Path) -> None:
    """Pillow does not write them."""
    import struct
    import zlib

    photo(root / "images" / "1.jpg")
    rows = np.pad(INDICES, ((0, 0), (0, 2))).reshape(20, 8, 4)
    packed = (rows * np.array([64, 16, 4, 1])).sum(axis=2).astype(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 30, 20, 2, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    whole = b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    (root / "masks").mkdir()
    (root / "masks" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)


def of_gray_saved_as_colour(root: Path) -> None:
    pair(root, mask=np.repeat(INDICES[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("made", "listed"),
    [
        (of_indices, NAMES), (of_a_palette, NAMES), (of_16_bits, NAMES), (of_2_bits, NAMES), (of_gray_saved_as_colour, NAMES),
        (of_indices, "0: sky\n1: road\n2: car\n3: tree"), (of_indices, "sky,0\nroad,1\ncar,2\ntree,3"),
        (of_colours, LABELMAP), (of_a_bitmap, LABELMAP), (of_a_palette_in_another_order, LABELMAP),
        (of_indices, LABELMAP), (of_colours, "sky 0 0 0\nroad 128 0 0\ncar 0 128 0\ntree 0 0 200"),
        (of_colours, "0 0 0\tsky\n128 0 0\troad\n0 128 0\tcar\n0 0 200\ttree"),
        (of_colours, "name,r,g,b\nsky,0,0,0\nroad,128,0,0\ncar,0,128,0\ntree,0,0,200"),
    ],
)  # fmt: skip
def test_masks_with_a_list_of_classes(tmp_path: Path, made: Callable[[Path], None], listed: str) -> None:
    made(tmp_path)
    (tmp_path / "labelmap.txt").write_text(listed)
    masks = masks_in(read_dataset(tmp_path))
    assert masks.classes == ("sky", "road", "car", "tree")
    assert np.array_equal(masks.read(0), INDICES)
    assert masks.areas.tolist() == [[300, 100, 100, 100, 0]]


@pytest.mark.parametrize(
    "text",
    [
        '["sky", "road", "car", "tree"]', '{"classes": ["sky", "road", "car", "tree"]}',
        '{"0": "sky", "1": "road", "2": "car", "3": "tree"}',
        '{"sky": 0, "road": 1, "car": 2, "tree": 3}',
        '[{"name": "sky", "id": 0}, {"name": "road", "id": 1}, {"name": "car", "id": 2}, {"name": "tree", "id": 3}]',
    ],
)  # fmt: skip
def test_lists_of_classes_as_json(tmp_path: Path, text: str) -> None:
    of_indices(tmp_path)
    (tmp_path / "masks" / "classes.json").write_text(text)
    assert masks_in(read_dataset(tmp_path)).classes == ("sky", "road", "car", "tree")


@pytest.mark.parametrize("text", ['{"sky": [0, 0, 0], "road": [128, 0, 0], "car": [0, 128, 0], "tree": "#0000c8"}'])
def test_lists_of_colours_as_json(tmp_path: Path, text: str) -> None:
    of_colours(tmp_path)
    (tmp_path / "classes.json").write_text(text)
    assert np.array_equal(masks_in(read_dataset(tmp_path)).read(0), INDICES)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "", r"classes\.txt: the list of classes is empty; write one name in each line"),
        ("classes.txt", "sky\nsky\n", r"classes\.txt: the class 'sky' is listed twice; rename one of them"),
        ("classes.txt", "sky 1 2 3\nroad 1 2 3\n", r"'sky' and 'road' have the same colour 1,2,3; give each its own"),
        ("classes.txt", b"\xff\xfe\x00", r"the list of classes cannot be read .*save it in UTF-8"),
        ("classes.json", "{", r"classes\.json: the list of classes is not JSON"),
        ("classes.json", '{"sky": 0.5}', r"the list of classes is not understood; expected \["),
        ("classes.json", "7", r"the list of classes is not understood; expected \["),
    ],
)
def test_lists_of_classes_that_cannot_be_used(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    of_indices(tmp_path)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_masks_without_a_list(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.where(BLOCKS == 3, 7, BLOCKS).astype(np.uint8))
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("class 0", "class 1", "class 2", "class 7")
    assert masks_in(data).areas.tolist() == [[200, 100, 100, 100, 100]]
    assert any("No list of classes beside the masks: their 4 values, 0 to 7" in note for note in data.notes)


@pytest.mark.parametrize(("high", "mode"), [(255, "L"), (1, "L"), (255, "1"), (7, "L"), (65535, "16")])
def test_two_values(tmp_path: Path, high: int, mode: str) -> None:
    inside = BLOCKS == 2
    photo(tmp_path / "images" / "1.jpg")
    array = inside if mode == "1" else (inside * high).astype(np.uint16 if mode == "16" else np.uint8)
    write(tmp_path / "masks" / "1.png", array)
    masks = masks_in(read_dataset(tmp_path))
    assert masks.classes == ("background", "foreground")
    assert np.array_equal(masks.read(0), inside)


def test_two_values_and_void(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.where(BLOCKS == 255, 255, BLOCKS > 1).astype(np.uint8))
    masks = masks_in(read_dataset(tmp_path))
    assert masks.classes == ("background", "foreground")
    assert masks.areas.tolist() == [[300, 200, 100]]


@pytest.mark.parametrize("listed", ["person\n", "ground\nperson\n"])
def test_binary_masks_with_names(tmp_path: Path, listed: str) -> None:
    pair(tmp_path, mask=(BLOCKS == 2).astype(np.uint8) * 255)
    (tmp_path / "classes.txt").write_text(listed)
    masks = masks_in(read_dataset(tmp_path))
    assert masks.classes == (("background", "person") if listed == "person\n" else ("ground", "person"))
    assert np.array_equal(masks.read(0), BLOCKS == 2)


def test_binary_masks_with_too_many_names(tmp_path: Path) -> None:
    pair(tmp_path, mask=(BLOCKS == 2).astype(np.uint8) * 255)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"the masks hold 0 and 255 only, and .*classes\.txt names 3 classes\. Which of them is 255"):
        read_dataset(tmp_path)


def test_values_that_count_from_1(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.where(BLOCKS == 255, 255, np.maximum(BLOCKS, 1)).astype(np.uint8))
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\n")
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("sky", "road", "tree")
    assert masks_in(data).areas.tolist() == [[300, 100, 100, 100]]
    assert any("count from 1" in note for note in data.notes)


def test_a_list_without_the_background(tmp_path: Path) -> None:
    of_indices(tmp_path)
    (tmp_path / "classes.txt").write_text("road\ncar\ntree\n")
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("background", "road", "car", "tree")
    assert any("names 3 classes: 0 is read as 'background'" in note for note in data.notes)


def test_void_classes(tmp_path: Path) -> None:
    of_indices(tmp_path)
    (tmp_path / "classes.txt").write_text("Void\nroad\ncar\nun-labelled\n")
    data = read_dataset(tmp_path)
    masks = masks_in(data)
    assert masks.classes == ("road", "car")
    assert masks.areas.tolist() == [[100, 100, 400]]
    assert set(np.unique(masks.read(0))) == {0, 1, VOID}
    assert any(note.startswith("Pixels of 'Void', 'un-labelled' count as pixels without a class") for note in data.notes)


def test_a_void_class_that_is_the_background(tmp_path: Path) -> None:
    of_indices(tmp_path)
    (tmp_path / "classes.txt").write_text("Void\nroad\ncar\ntree\n")
    found = read_annotations(tmp_path)
    found.background = "void"
    assert read_masks(found).classes == ("Void", "road", "car", "tree")


def test_a_name_for_the_background(tmp_path: Path) -> None:
    of_indices(tmp_path)
    found = read_annotations(tmp_path)
    found.background = "ground"
    assert read_masks(found).classes == ("ground", "class 1", "class 2", "class 3")
    pair(tmp_path, mask=(BLOCKS == 2).astype(np.uint8) * 255)
    found = read_annotations(tmp_path)
    found.background = "ground"
    assert read_masks(found).classes == ("ground", "foreground")


def test_values_that_stand_for_nothing(tmp_path: Path) -> None:
    of_indices(tmp_path)
    pair(tmp_path, "2", np.where(INDICES == 1, 9, INDICES).astype(np.uint8))
    (tmp_path / "classes.txt").write_text(NAMES)
    with pytest.raises(
        DataError, match=r"masks/2\.png: 100 pixels of the value 9, which stands for no class: .*classes\.txt has 4 classes\. In 1"
    ):
        read_dataset(tmp_path)


def test_colours_that_stand_for_nothing(tmp_path: Path) -> None:
    of_colours(tmp_path)
    (tmp_path / "labelmap.txt").write_text("road:128,0,0::\ncar:0,128,0::\ntree:0,0,200::\n")
    with options_typed(), pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert "masks/1.png: 300 pixels of the colour 0,0,0, which stands for no class" in str(caught.value)
    assert "--background NAME makes it a class of its own." in str(caught.value)
    found = read_annotations(tmp_path)
    found.background = "sky"
    assert read_masks(found).classes == ("sky", "road", "car", "tree")


def test_colours_need_a_list_with_colours(tmp_path: Path) -> None:
    of_colours(tmp_path)
    (tmp_path / "classes.txt").write_text(NAMES)
    with pytest.raises(DataError, match=r"classes\.txt names classes without colours, and .*1\.png holds colours\. Write the colour"):
        read_dataset(tmp_path)


def test_colours_without_a_list(tmp_path: Path) -> None:
    of_colours(tmp_path)
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("background", "#0000c8", "#008000", "#800000")
    assert any("Name them in classes.txt, one in each line: road 128 64 128" in note for note in data.notes)


def test_palettes_that_do_not_agree_are_colours(tmp_path: Path) -> None:
    for name, order in (("1", [0, 1, 2, 3]), ("2", [3, 2, 1, 0])):
        photo(tmp_path / "images" / f"{name}.jpg")
        saved(paletted(np.array(order, np.uint8)[INDICES], COLOURS[order]), tmp_path / "masks" / f"{name}.png")
    masks = masks_in(read_dataset(tmp_path))
    assert masks.classes == ("background", "#0000c8", "#008000", "#800000")
    assert np.array_equal(masks.read(0), masks.read(1))


def test_a_black_mask_among_coloured_ones(tmp_path: Path) -> None:
    of_colours(tmp_path)
    pair(tmp_path, "2", np.zeros_like(RGB))
    pair(tmp_path, "3", np.zeros_like(INDICES))
    masks = masks_in(read_dataset(tmp_path))
    assert masks.areas[1:].tolist() == [[600, 0, 0, 0, 0]] * 2


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.dstack([np.where(RGB == 0, 77, RGB), np.where(INDICES == 0, 0, 255).astype(np.uint8)]))
    assert masks_in(read_dataset(tmp_path)).pixels()["background"] == 300


def test_smeared_binary_masks(tmp_path: Path) -> None:
    inside = np.kron(BLOCKS == 2, np.ones((6, 6), bool))
    photo(tmp_path / "images" / "1.png", inside.shape)
    write(tmp_path / "masks" / "1.jpg", inside.astype(np.uint8) * 255, quality=75)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "masks" / "1.jpg")))) > 2
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("background", "foreground")
    assert np.array_equal(masks_in(data).read(0), inside)
    note = next(note for note in data.notes if note.startswith("The masks have values between those of the classes"))
    assert isinstance(note, Warned)
    assert "masks/1.jpg" in note


@pytest.mark.parametrize("size", [(380, 380), (200, 200), (500, 470)])
@pytest.mark.parametrize("method", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_binary_masks_that_were_smoothed(tmp_path: Path, size: tuple[int, int], method: Image.Resampling) -> None:
    y, x = np.mgrid[:400, :400]
    inside = ((x - 150) ** 2 + (y - 220) ** 2 < 9000) | ((x - 300) ** 2 + 2 * (y - 80) ** 2 < 4000)
    smooth = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).resize(size, method))
    photo(tmp_path / "images" / "1.png", smooth.shape)
    write(tmp_path / "masks" / "1.png", smooth)
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("background", "foreground")
    assert np.array_equal(masks_in(data).read(0), smooth >= 128)
    assert any(note.startswith("The masks have values between") for note in data.notes)


def test_many_rare_classes_are_not_smoothed(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[:40] = 255
    for value in range(1, 20):
        mask[50:54, 4 * value : 4 * value + 3] = value
    pair(tmp_path, mask=mask)
    assert len(masks_in(read_dataset(tmp_path)).classes) == 20


def test_smeared_colours_with_a_list(tmp_path: Path) -> None:
    large = np.kron(RGB, np.ones((8, 8, 1), np.uint8))
    photo(tmp_path / "images" / "1.png", large.shape[:2])
    write(tmp_path / "masks" / "1.jpg", large, quality=90, subsampling=0)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    masks = masks_in(read_dataset(tmp_path))
    assert (masks.read(0) == np.kron(INDICES, np.ones((8, 8), np.uint8))).mean() > 0.98


@pytest.mark.parametrize("listed", [None, NAMES])
def test_indices_in_a_jpeg_cannot_be_told_apart(tmp_path: Path, listed: str | None) -> None:
    large = np.kron(INDICES, np.ones((3, 3), np.uint8))
    photo(tmp_path / "images" / "1.png", large.shape)
    write(tmp_path / "masks" / "1.jpg", large, quality=50)
    if listed:
        (tmp_path / "classes.txt").write_text(listed)
    with pytest.raises(
        DataError, match=r"masks/1\.jpg: the mask is a JPEG, which changes values, and its .* cannot be told apart for sure"
    ):
        read_dataset(tmp_path)


def test_a_photograph_in_place_of_a_mask(tmp_path: Path) -> None:
    of_indices(tmp_path)
    photo(tmp_path / "masks" / "2.png")
    photo(tmp_path / "images" / "2.jpg")
    with pytest.raises(DataError, match=r"masks/2\.png: the mask has 600 colours, so it is no mask of classes"):
        read_dataset(tmp_path)


def test_masks_of_instances(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.arange(600, dtype=np.uint16).reshape(20, 30))
    with pytest.raises(DataError, match=r"masks/1\.png: the mask has 600 values up to 599, .*at most 254 classes can be learned"):
        read_dataset(tmp_path)


def test_gray_levels_evenly_spread(tmp_path: Path) -> None:
    pair(tmp_path, mask=(INDICES * 85).astype(np.uint8))
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("class 0", "class 85", "class 170", "class 255")
    assert any("255 is read as a class" in note for note in data.notes)


def test_nothing_to_tell_apart(tmp_path: Path) -> None:
    pair(tmp_path, mask=np.zeros_like(INDICES))
    with pytest.raises(DataError, match=r"the masks hold only 'background', so there is nothing to tell apart\. Look at them"):
        read_dataset(tmp_path)


def test_a_mask_in_floating_point(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "1.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(INDICES.astype(np.float32)).save(tmp_path / "masks" / "1.tif")
    with pytest.raises(DataError, match=r"1\.tif: it holds floating point; a mask holds whole numbers or colours: save it as PNG"):
        read_dataset(tmp_path)


def test_classes_of_a_run_are_matched_by_name(tmp_path: Path) -> None:
    of_indices(tmp_path)
    (tmp_path / "classes.txt").write_text(NAMES)
    masks = read_masks(read_annotations(tmp_path), ("tree", "car", "road", "sky"))
    assert masks.classes == ("tree", "car", "road", "sky")
    assert np.array_equal(masks.read(0), 3 - INDICES)
    with pytest.raises(DataError, match="has a class that the classes of the run does not have: 'sky'"):
        read_masks(read_annotations(tmp_path), ("tree", "car", "road"))


def test_binary_masks_are_those_of_a_run_with_two_classes(tmp_path: Path) -> None:
    pair(tmp_path, mask=(BLOCKS == 2).astype(np.uint8) * 255)
    found = read_annotations(tmp_path)
    assert np.array_equal(read_masks(found, ("sky", "person")).read(0), BLOCKS == 2)
    assert "The masks name no classes: the lower value is read as 'sky' and the higher is read as 'person', by their values." in found.notes


def test_a_test_set_with_another_order_of_classes(tmp_path: Path) -> None:
    of_indices(tmp_path / "one")
    (tmp_path / "one" / "classes.txt").write_text(NAMES)
    pair(tmp_path / "two", mask=3 - INDICES)
    (tmp_path / "two" / "classes.txt").write_text("tree\ncar\nroad\nsky\n")
    masks = masks_in(read_dataset(tmp_path / "one", test=tmp_path / "two"))
    assert masks.classes == ("sky", "road", "car", "tree")
    assert np.array_equal(masks.read(0), masks.read(1))


def test_a_mask_that_changes_after_it_was_read(tmp_path: Path) -> None:
    of_indices(tmp_path)
    masks = masks_in(read_dataset(tmp_path))
    write(tmp_path / "masks" / "1.png", INDICES + 100)
    with pytest.raises(DataError, match=r"1\.png: the mask has changed since it was checked; read the data again"):
        masks.read(0)


def test_the_background_of_a_run_is_known_again(tmp_path: Path) -> None:
    of_indices(tmp_path)
    named = tmp_path / "classes.txt"
    masks = read_masks(read_annotations(tmp_path), ("ground", "class 1", "class 2", "class 3"))
    assert np.array_equal(masks.read(0), INDICES)
    named.write_text("Void\nroad\ncar\ntree\n")
    masks = read_masks(read_annotations(tmp_path), ("Void", "road", "car", "tree"))
    assert np.array_equal(masks.read(0), INDICES)
    masks = read_masks(read_annotations(tmp_path), ("road", "car", "tree"))
    assert np.array_equal(masks.read(0), np.where(INDICES == 0, VOID, INDICES - 1))
