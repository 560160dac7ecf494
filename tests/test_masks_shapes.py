"""Masks drawn from shapes: filling, COCO, LabelMe and CVAT, and what is damaged or missing there."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data import VOID, Boxes, Dataset, read_dataset
from headstart.data.shapes import Ellipse, Polygons, Rectangle, filled_polygon
from headstart.errors import DataError
from headstart.pixels.runs import encoded, run_lengths
from made_masks import masks_in, photo

SIZE = (20, 30)
SQUARE = [[4, 5], [12, 5], [12, 15], [4, 15]]
"""Columns 4 to 11, rows 5 to 14."""


def drawn(patch: Any, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    top, left, inside = patch
    whole = np.zeros(size, bool)
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole


def square() -> np.ndarray[Any, Any]:
    whole = np.zeros(SIZE, bool)
    whole[5:15, 4:12] = True
    return whole


def one_by_one(points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The even-odd rule for each pixel: how many edges a ray to the left crosses."""
    found = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                found[row, column] = not found[row, column]
    return found


@given(st.lists(st.tuples(st.integers(-8, 40), st.integers(-8, 30)), min_size=3, max_size=8))
@settings(max_examples=100)
def test_polygons_are_filled_by_the_even_odd_rule(points: list[tuple[int, int]]) -> None:
    moved = [(x * 0.75, y * 0.75 + 0.125) for x, y in points]
    assert np.array_equal(drawn(filled_polygon(np.array(moved), SIZE)), one_by_one(moved, SIZE))


def test_shapes_have_their_areas() -> None:
    assert np.array_equal(drawn(filled_polygon(np.array(SQUARE), SIZE)), square())
    assert np.array_equal(drawn(Rectangle(4, 5, 12, 15).filled(SIZE)), square())
    assert np.array_equal(drawn(Rectangle(3, 6, 13, 14, angle=90).filled(SIZE)), square())
    assert np.array_equal(drawn(Polygons((np.array(SQUARE) - [0, 100], np.array(SQUARE))).filled(SIZE)), square())
    circle = drawn(Ellipse(50, 60, 40, 20).filled((120, 100)), (120, 100))
    assert circle.sum() == pytest.approx(np.pi * 40 * 20, rel=0.01)
    upright = drawn(Ellipse(50, 60, 20, 40, 90).filled((120, 100)), (120, 100))
    assert np.array_equal(circle, upright)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_polygons_agree_with_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    points = np.random.default_rng(1).uniform(0, 200, (7, 2))
    theirs = coco.decode(coco.frPyObjects([points.ravel().tolist()], 200, 200))[:, :, 0].astype(bool)
    ours = drawn(filled_polygon(points, (200, 200)), (200, 200))
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


def coco(root: Path, segmentation: Any, *, name: str = "annotations/instances.json", **changes: Any) -> Path:
    photo(root / "images" / "a.jpg", SIZE)
    photo(root / "images" / "b.jpg", SIZE)
    document = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}, {"id": 8, "file_name": "b.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "ant"}, {"id": 9, "name": "unused"}],
        "annotations": [
            {"id": 2, "image_id": 7, "category_id": 5, "segmentation": segmentation, "area": 80, "iscrowd": 0},
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[0, 0, 30, 0, 30, 10, 0, 10]], "area": 300, "iscrowd": 0},
        ],
    } | changes  # fmt: skip
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "segmentation",
    [
        [np.array(SQUARE).ravel().tolist()],
        {"size": [*SIZE], "counts": run_lengths(square()).tolist()},
        encoded(square()),
        [[4, 5, 8, 5, 8, 15, 4, 15], [8, 5, 12, 5, 12, 15, 8, 15]],
    ],
    ids=["polygon", "uncompressed", "compressed", "two polygons"],
)
def test_coco(tmp_path: Path, segmentation: Any) -> None:
    path = coco(tmp_path, segmentation)
    for source in (tmp_path, path):
        data = read_dataset(source)
        assert masks_in(data).classes == ("background", "cat", "ant")
        mask = masks_in(data).read(0)
        assert np.array_equal(mask == 2, square())
        assert np.array_equal(mask == 1, (np.arange(20) < 10)[:, None] & ~square())
        assert masks_in(data).areas.tolist() == [[600 - 80 - 260, 260, 80, 0], [600, 0, 0, 0]]
        assert "1 image without a shape: all of it is background." in data.notes
        assert masks_in(data).cells(0) == {"mask": str(path)}


def test_coco_in_parts(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        coco(tmp_path / part, [np.array(SQUARE).ravel().tolist()], name="_annotations.coco.json")
        for name in "ab":
            (tmp_path / part / "images" / f"{name}.jpg").rename(tmp_path / part / f"{name}.jpg")
    data = read_dataset(tmp_path)
    assert data.names() == ("train/a.jpg", "train/b.jpg", "valid/a.jpg", "valid/b.jpg")
    assert data.parts.tolist() == ["train", "train", "val", "val"]


def test_coco_as_published(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        coco(tmp_path, [np.array(SQUARE).ravel().tolist()], name=f"annotations/instances_{part}.json")
        coco(tmp_path, [np.array(SQUARE).ravel().tolist()], name=f"annotations/person_keypoints_{part}.json")
        photo(tmp_path / part / "a.jpg", SIZE)
        photo(tmp_path / part / "b.jpg", SIZE)
    for name in "ab":
        (tmp_path / "images" / f"{name}.jpg").unlink()
    data = read_dataset(tmp_path)
    assert data.names() == ("train2017/a.jpg", "train2017/b.jpg", "val2017/a.jpg", "val2017/b.jpg")
    assert data.parts.tolist() == ["train", "train", "val", "val"]


def test_a_name_for_what_is_in_no_shape(tmp_path: Path) -> None:
    from headstart.data import read_annotations, read_masks

    coco(tmp_path, [np.array(SQUARE).ravel().tolist()])
    found = read_annotations(tmp_path)
    found.background = "ground"
    assert read_masks(found).classes == ("ground", "cat", "ant")
    assert "Pixels inside no shape are the class 'ground'." in found.notes
    again = read_annotations(tmp_path)
    assert read_masks(again, ("ground", "cat", "ant")).areas.tolist() == [[260, 260, 80, 0], [600, 0, 0, 0]]


B = {"id": 8, "file_name": "b.jpg"}
COCO_TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "no category": ({"categories": [{"id": 1, "name": "cat"}]}, "an annotation has the category 5, which is not among its categories"),
    "no image": ({"images": [B]}, "1 images have annotations and are not listed, the first has the id 7"),
    "no files": (
        {"images": [{"id": 7, "file_name": "c.jpg"}, {"id": 8, "file_name": "d.jpg"}]},
        "2 of the 2 images in the annotations are not below",
    ),
    "no id": ({"images": [{"file_name": "c.jpg"}]}, r"damaged: KeyError 'id' where an image, a category or an annotation"),
    "huge": ({"images": [{"id": 7, "file_name": "a.jpg", "height": 10**6, "width": 10**6}, B]}, "1000000x1000000 pixels"),
    "another size": (
        {"images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 20}, B]},
        r"of another shape than the image: .*a\.jpg.* is 20x20, images/a\.jpg is 30x20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", COCO_TROUBLE)
def test_coco_in_trouble(tmp_path: Path, trouble: str) -> None:
    changes, message = COCO_TROUBLE[trouble]
    coco(tmp_path, [np.array(SQUARE).ravel().tolist()], **changes)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [20, 30], "counts": [5, 5]}, "the shape of a 'ant' is damaged: run lengths of a mask of 20 x 30"),
        ({"size": [30, 20], "counts": [600]}, "run lengths of a mask of 20x30 in an image of 30x20"),
        ({"size": [20, 30], "counts": "~~"}, "the shape of a 'ant' is damaged: .*a compressed mask"),
    ],
)
def test_damaged_shapes_of_coco(tmp_path: Path, segmentation: Any, message: str) -> None:
    coco(tmp_path, segmentation)
    with pytest.raises(DataError, match=f"1 mask cannot be read: .*instances.json .*a.jpg.*{message}"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e30])
def test_coordinates_that_are_none(tmp_path: Path, number: float) -> None:
    coco(tmp_path, [[4, 5, number, 5, 12, 15]])
    with pytest.raises(DataError, match=r"instances\.json: damaged: ValueError coordinates must be numbers below 1000000; got"):
        read_dataset(tmp_path)


def test_boxes_of_coco_are_no_masks(tmp_path: Path) -> None:
    path = coco(tmp_path, [], annotations=[{"id": 1, "image_id": 7, "category_id": 5, "bbox": [0, 0, 4, 4], "segmentation": []}])
    assert isinstance(read_dataset(path).targets, Boxes)


def test_images_that_are_missing_or_not_annotated_are_named(tmp_path: Path) -> None:
    path = coco(tmp_path, [np.array(SQUARE).ravel().tolist()])
    photo(tmp_path / "images" / "c.jpg", SIZE)
    (tmp_path / "images" / "b.jpg").unlink()
    data = read_dataset(path)
    assert data.names() == ("images/a.jpg",)
    assert "Left out 1 image that is not there: b.jpg (of instances.json)." in data.notes
    assert "Left out 1 image of which no annotation file says anything: images/c.jpg." in data.notes
    coco(tmp_path, [np.array(SQUARE).ravel().tolist()], name="annotations/instances2.json")
    with pytest.raises(DataError, match=r"images/a\.jpg is annotated twice, in .*instances\.json and in .*instances2\.json"):
        read_dataset(tmp_path)


def labelme(root: Path, *shapes: dict[str, Any], name: str = "a", **changes: Any) -> None:
    photo(root / f"{name}.jpg", SIZE)
    document = {"version": "5.4.1", "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 20, "imageWidth": 30}
    (root / f"{name}.json").write_text(json.dumps(document | changes))


def png(array: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, **more}


LABELME: dict[str, Callable[[], dict[str, Any]]] = {
    "polygon": lambda: shape("dog", SQUARE),
    "rectangle": lambda: shape("dog", [[12, 15], [4, 5]], "rectangle"),
    "mask": lambda: shape("dog", [[4, 5], [11, 14]], "mask", mask=png(np.ones((10, 8), bool))),
}


@pytest.mark.parametrize("kind", LABELME)
def test_labelme(tmp_path: Path, kind: str) -> None:
    labelme(
        tmp_path,
        shape("_background_", [[0, 0], [30, 0], [30, 2], [0, 2]]),
        LABELME[kind](),
        shape("__ignore__", [[0, 18], [30, 18], [30, 20], [0, 20]]),
    )
    labelme(tmp_path, shape("ant", [[10, 10], [10, 15]], "circle"), shape("ant", [[1, 1], [2, 2]], "line"), name="test_1")
    data = read_dataset(tmp_path)
    assert data.parts.tolist() == ["", ""]
    assert masks_in(data).classes == ("background", "ant", "dog")
    mask = masks_in(data).read(0)
    assert np.array_equal(mask == 2, square())
    assert np.array_equal(mask == VOID, np.broadcast_to((np.arange(20) >= 18)[:, None], SIZE))
    assert masks_in(data).areas[1, 1] == pytest.approx(np.pi * 25, abs=4)
    assert "Passed over annotations that have no area: 1 of the kind line." in data.notes
    assert any(note.startswith("Pixels of '__ignore__' count as pixels without a class") for note in data.notes)


def test_labelme_in_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for folder in ("images", "labels"):
            (tmp_path / part / folder).mkdir(parents=True)
        labelme(tmp_path / part / "labels", shape("dog", SQUARE), imagePath="..\\images\\a.jpg")
        (tmp_path / part / "labels" / "a.jpg").rename(tmp_path / part / "images" / "a.jpg")
    data = read_dataset(tmp_path)
    assert data.names() == ("train/images/a.jpg", "test/images/a.jpg")
    assert data.parts.tolist() == ["train", "test"]


def test_labelme_of_a_renamed_image(tmp_path: Path) -> None:
    labelme(tmp_path, shape("dog", SQUARE), imagePath="IMG_0001.JPG")
    assert read_dataset(tmp_path).names() == ("a.jpg",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "dog", "shape_type": "polygon"}, r"a\.json: damaged: KeyError 'points' where a shape of LabelMe is expected"),
        (shape("dog", [[4, 5], [11, 14]], "mask", mask="!"), r"a\.json: damaged: Error .* where a shape of LabelMe"),
        (shape("dog", [[4, 5], [11, 14]], "mask", mask=""), r"the shape of a 'dog' is damaged"),
        (shape("dog", [[24, 5], [11, 14]], "mask", mask=png(np.ones((10, 8), bool))), r"a mask that ends outside the image of 30x20"),
    ],
)
def test_damaged_labelme(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    labelme(tmp_path, shape("dog", SQUARE), wrong)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_a_file_of_labelme_that_is_not_json(tmp_path: Path) -> None:
    labelme(tmp_path, shape("dog", SQUARE))
    (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.jpg", ')
    with pytest.raises(DataError, match=r"a\.json: the annotations are not JSON: .* Export them again"):
        read_dataset(tmp_path)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <meta><job><labels><label><name>dog</name></label><label><name>ant</name></label></labels></job></meta>
  <image id="0" name="sub/a.jpg" subset="Train" width="30" height="20">
    {shape}
    <polygon label="ant" points="0.0,0.0;30.0,0.0;30.0,10.0;0.0,10.0" z_order="-1"></polygon>
    <polyline label="ant" points="0.0,0.0;30.0,0.0" z_order="0"></polyline>
  </image>
  <image id="1" name="sub/b.jpg" subset="Validation" width="30" height="20"></image>
</annotations>"""
CVAT_SHAPES = {
    "polygon": '<polygon label="dog" points="4.0,5.0;12.0,5.0;12.0,15.0;4.0,15.0" z_order="0"/>',
    "box": '<box label="dog" xtl="4" ytl="5" xbr="12" ybr="15" z_order="0"/>',
    "turned box": '<box label="dog" xtl="3" ytl="6" xbr="13" ybr="14" rotation="90.0" z_order="0"/>',
    "mask": '<mask label="dog" rle="0, 80" left="4" top="5" width="8" height="10" z_order="0"/>',
}


def cvat(root: Path, text: str) -> Path:
    for name in "ab":
        photo(root / "images" / "sub" / f"{name}.jpg", SIZE)
    (root / "annotations.xml").write_text(text)
    return root / "annotations.xml"


@pytest.mark.parametrize("kind", CVAT_SHAPES)
def test_cvat(tmp_path: Path, kind: str) -> None:
    path = cvat(tmp_path, CVAT.format(shape=CVAT_SHAPES[kind]))
    for source in (tmp_path, path):
        data = read_dataset(source)
        assert data.names() == ("images/sub/a.jpg", "images/sub/b.jpg")
        assert data.parts.tolist() == ["train", "val"]
        assert masks_in(data).classes == ("background", "dog", "ant")
        assert np.array_equal(masks_in(data).read(0) == 1, square())
        assert masks_in(data).areas[0, 2] == 300 - 40
        assert "Passed over annotations that have no area: 1 of the kind polyline." in data.notes


def test_a_label_that_cvat_does_not_list(tmp_path: Path) -> None:
    cvat(tmp_path, CVAT.format(shape=CVAT_SHAPES["polygon"].replace("dog", "cow")))
    assert masks_in(read_dataset(tmp_path)).classes == ("background", "ant", "cow")


def test_an_ellipse_of_cvat(tmp_path: Path) -> None:
    cvat(tmp_path, CVAT.format(shape='<ellipse label="dog" cx="15" cy="10" rx="8" ry="4" z_order="0"/>'))
    assert masks_in(read_dataset(tmp_path)).areas[0, 1] == pytest.approx(np.pi * 32, abs=4)


CVAT_TROUBLE = {
    "video": ("<annotations><track id='0'/></annotations>", "the tracks of a video. Export the task from CVAT in the format 'CVAT for im"),
    "cut off": ("<annotations><image id='0' name='a.jpg'>", "damaged XML: .* Export it again"),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations><image id='0'/></annotations>", "declares entities or a document type"),
    "no size": ("<annotations><image id='0' name='sub/a.jpg'><box label='a'/></image></annotations>", "damaged: KeyError '(height|xtl)'"),
    "short mask": (
        CVAT.format(shape='<mask label="dog" rle="0, 8" left="4" top="5" width="8" height="10"/>'),
        "the run lengths of a mask of 8x10 add up to 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", CVAT_TROUBLE)
def test_cvat_in_trouble(tmp_path: Path, trouble: str) -> None:
    text, message = CVAT_TROUBLE[trouble]
    cvat(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_boxes_of_cvat_are_no_masks(tmp_path: Path) -> None:
    path = cvat(tmp_path, "<annotations><image id='0' name='sub/a.jpg' width='30' height='20'>"
                          "<box label='dog' xtl='4' ytl='5' xbr='12' ybr='15'/></image></annotations>")  # fmt: skip
    assert isinstance(read_dataset(path).targets, Boxes)


def listed_again(data: Dataset, folder: Path) -> Dataset:
    rows = [f"{path},{masks_in(data).cells(row)['mask']}" for row, path in enumerate(data.inputs)]
    (folder / "again.csv").write_text("\n".join(["path,mask", *rows]))
    return read_dataset(folder / "again.csv")


def test_masks_of_a_list_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path / "coco", [np.array(SQUARE).ravel().tolist()])
    (tmp_path / "labelme").mkdir()
    labelme(tmp_path / "labelme", shape("dog", SQUARE))
    labelme(tmp_path / "labelme", shape("ant", SQUARE), name="b", imagePath="old.jpg")
    cvat(tmp_path / "cvat", CVAT.format(shape=CVAT_SHAPES["polygon"]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("coco", "labelme", "cvat"):
        data = read_dataset(name)
        again = listed_again(replace(data, inputs=tuple(path.absolute() for path in data.inputs)), tmp_path / "elsewhere")
        assert again.classes == data.classes
        assert np.array_equal(masks_in(again).areas, masks_in(data).areas)


def test_a_list_of_images_that_are_not_annotated(tmp_path: Path) -> None:
    path = coco(tmp_path, [np.array(SQUARE).ravel().tolist()])
    photo(tmp_path / "images" / "c.jpg", SIZE)
    (tmp_path / "list.csv").write_text(f"path,mask\nimages/c.jpg,{path}\n")
    with pytest.raises(DataError, match=r"instances\.json: nothing is said of .*images/c\.jpg"):
        read_dataset(tmp_path / "list.csv")
