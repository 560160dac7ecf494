"""Annotation files as they should not be: each is read right, with a word about it, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.errors import DataError, HeadstartError
from made_boxes import SAMPLE, Thing, coco_document, labelme, listed, photos, read, voc, voc_text, write_text, written, yolo
from made_masks import photo

A = SAMPLE["a.jpg"]
TRUE = written(SAMPLE)
Broken = tuple[Callable[[Path], None], Any, str]
CASES: dict[str, Broken] = {}


def case(expected: Any, message: str = "") -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """`expected` are the boxes by image, or None where the data are refused; `message` is in a note, or the error."""

    def added(build: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES[build.__name__] = build, expected, message
        return build

    return added


def without(*names: str) -> dict[str, list[Thing]]:
    return {name: things for name, things in TRUE.items() if name not in names}


def changed(image: str, *things: tuple[str, tuple[float, float, float, float]]) -> dict[str, list[Thing]]:
    return {**TRUE, image: sorted(Thing(label, tuple(map(float, box))) for label, box in things)}


def xml_of_a(text: str | bytes) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        voc(root)
        write_text(root / "Annotations" / "a.xml", text)

    return build


def with_boxes(*things: tuple[str, tuple[Any, ...]], size: tuple[int, int] = A[0], name: str = "a.jpg") -> str:
    return voc_text(name, size, [Thing(*thing) for thing in things])


CAT, DOG = ("cat", (10, 5, 30, 35)), ("dog", (30, 10, 60, 40))
WHOLE = with_boxes(CAT, DOG)
XML: dict[str, tuple[str | bytes, Any, str]] = {
    "partly outside": (with_boxes(CAT, ("dog", (30, 10, 75, 44))), TRUE,
        r"1 box partly outside of the image: cut at its edge: 'dog' \(30, 10, 75, 44\) in .*a\.xml"),
    "wholly outside": (with_boxes(CAT, ("dog", (61, 10, 75, 20))), changed("a.jpg", CAT),
        r"Left out 1 box wholly outside of the image: 'dog' .*a\.xml"),
    "swapped": (with_boxes(CAT, ("dog", (60, 40, 30, 10))), TRUE, r"1 box with left and right, or top and bottom, swapped: .*a\.xml"),
    "no area": (with_boxes(CAT, ("dog", (30, 10, 30, 40))), changed("a.jpg", CAT), r"Left out 1 box without an area: 'dog' .*a\.xml"),
    "not a number": (with_boxes(CAT, ("dog", ("nan", 10, 30, 40))), changed("a.jpg", CAT),
        r"Left out 1 box with sides that are no numbers.*'dog' .*a\.xml"),
    "infinite": (with_boxes(CAT, ("dog", (30, 10, "1e999", 40))), changed("a.jpg", CAT), r"no numbers, or damaged: 'dog' .*a\.xml"),
    "words for numbers": (with_boxes(CAT, ("dog", ("ten", 10, 30, 40))), without("a.jpg"),
        r"Left out 1 image whose annotations cannot be read: .*a\.jpg .*a\.xml.*'ten'"),
    "a side is missing": (WHOLE.replace("<xmax>60</xmax>", ""), changed("a.jpg", CAT), r"no numbers, or damaged: 'dog'"),
    "an object without a box": (WHOLE.replace("</annotation>", "<object><name>cow</name></object></annotation>"), TRUE,
        "Passed over, being no boxes: 1 without a box"),
    "an object without a name": (WHOLE.replace("<name>dog</name>", "<name> </name>"), without("a.jpg"),
        r"a\.xml: an object without a name"),
    "fractions": (with_boxes(("cat", ("10.0", "5.0", "30.0", "35.0")), DOG), TRUE, ""),
    "spaces in names": (WHOLE.replace("<name>cat</name>", "<name>\n cat </name>"), TRUE, ""),
    "parts of an object": (WHOLE.replace("</object>", "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"), TRUE, ""),
    "cut off": (WHOLE[:-40], without("a.jpg"),
        r"Left out 1 image whose annotations cannot be read: JPEGImages/a\.jpg .*a\.xml: damaged XML"),
    "empty": ("", without("a.jpg"), r"a\.xml: empty"),
    "not XML": ("{}", without("a.jpg"), r"a\.xml: damaged XML"),
    "another document": ("<html></html>", without("a.jpg"), r"<html> where <annotation> of Pascal VOC is expected"),
    "entities": ('<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>' + WHOLE.replace("cat", "&y;"), without("a.jpg"),
        "declares entities or a document type"),
    "entities in UTF-16": (('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "cat">]>' + WHOLE).encode("utf-16"),
        without("a.jpg"),
        "declares entities or a document type"),
    "a byte order mark": (b"\xef\xbb\xbf" + WHOLE.encode(), TRUE, ""),
    "UTF-16": (('<?xml version="1.0" encoding="utf-16"?>' + WHOLE).encode("utf-16"), TRUE, ""),
    "Windows-1252": (WHOLE.replace("Unknown", "Größe").encode("cp1252"), TRUE, ""),
    "a line before the XML": ("\n\n" + WHOLE, TRUE, ""),
    "size of zero": (with_boxes(CAT, DOG, size=(0, 0)), TRUE, ""),
    "no size": (WHOLE.replace("<size>", "<old>").replace("</size>", "</old>"), TRUE, ""),
    "of an image twice as large": (with_boxes(("cat", (20, 10, 60, 70)), ("dog", (60, 20, 120, 80)), size=(80, 120)), TRUE,
        r"1 image of another size than in the annotation file; the boxes are scaled to the image: JPEGImages/a\.jpg "
        r"\(120x80 in the file, 60x40\)"),
    "height and width swapped": (with_boxes(CAT, DOG, size=(60, 40)), TRUE, "the boxes are used as they are, since they fit the image"),
    "another size": (with_boxes(CAT, size=(41, 90)), without("a.jpg"),
        r"Left out 1 image of another size than in the annotation file: JPEGImages/a\.jpg \(90x41 in the file, 60x40\)"),
    "the path of another machine": (WHOLE.replace("a.jpg", "C:\\Users\\me\\pets\\a.jpg"), TRUE, ""),
    "the name of another image": (WHOLE.replace("a.jpg", "b.jpg"), TRUE, ""),
    "no name": (WHOLE.replace("<filename>a.jpg</filename>", ""), TRUE, ""),
    "another ending": (WHOLE.replace("a.jpg", "a.png"), TRUE, ""),
}  # fmt: skip
for _name, (_text, _expected, _message) in XML.items():
    CASES[f"VOC: {_name}"] = xml_of_a(_text), _expected, _message


@case(without("c.jpg"), "Left out 1 image of which no annotation file says anything: JPEGImages/c.jpg")
def an_image_without_a_file(root: Path) -> None:
    voc(root)
    (root / "Annotations/c.xml").unlink()


@case(without("d.jpg"), r"Left out 1 image that is not there: d\.jpg \(of d\.xml\)")
def a_file_without_an_image(root: Path) -> None:
    voc(root)
    (root / "JPEGImages/d.jpg").unlink()


@case({"A.JPG": TRUE["a.jpg"], **without("a.jpg")})
def names_in_capitals(root: Path) -> None:
    voc(root)
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/A.JPG")


@case({"my cat 1.jpg": TRUE["a.jpg"]})
def spaces_in_file_names(root: Path) -> None:
    voc(root, {"my cat 1.jpg": A})


@case(None, "there are no boxes in 1 image: nothing can be learned")
def no_boxes_at_all(root: Path) -> None:
    photo(root / "a.jpg", A[0])
    write_text(root / "a.xml", with_boxes(DOG).replace("<xmax>60", "<xmax>30"))


@case(None, "3 of 4 annotation files cannot be read")
def most_files_are_damaged(root: Path) -> None:
    voc(root)
    for name in "abd":
        write_text(root / f"Annotations/{name}.xml", "<annotation>")


def document_of(root: Path, **changes: Any) -> Path:
    photos(root / "images", SAMPLE)
    return write_text(root / "annotations/instances.json", json.dumps(coco_document(SAMPLE) | changes))


def annotation(**changes: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = coco_document(SAMPLE)["annotations"]
    found[0] = {**found[0], **changes}
    return found


@case(None, r"instances\.json: an annotation has the category 0, which is not among its categories")
def coco_numbers_that_are_off_by_one(root: Path) -> None:
    document_of(root, annotations=annotation(category_id=0))


@case(changed("a.jpg", DOG), r"Left out 1 box without an area: 'cat' .*instances\.json")
def coco_of_zero_width(root: Path) -> None:
    document_of(root, annotations=annotation(bbox=[10, 5, 0, 30]))


@case(TRUE, r"1 box with left and right, or top and bottom, swapped: .*instances\.json .*a\.jpg")
def coco_of_negative_width(root: Path) -> None:
    document_of(root, annotations=annotation(bbox=[30, 5, -20, 30]))


@case(None, r"instances\.json: damaged: ValueError")
def coco_of_three_numbers(root: Path) -> None:
    document_of(root, annotations=annotation(bbox=[30, 5, 20]))


@case(changed("a.jpg", DOG), "no numbers, or damaged: 'cat'")
def coco_of_nan(root: Path) -> None:
    document_of(root, annotations=annotation(bbox=[10, float("nan"), 20, 30]))


@case(None, r"1 images have annotations and are not listed, the first has the id 99")
def coco_of_an_unlisted_image(root: Path) -> None:
    document_of(root, annotations=annotation(image_id=99))


@case(None, "is annotated twice")
def coco_of_one_image_under_two_names(root: Path) -> None:
    images: list[dict[str, Any]] = coco_document(SAMPLE)["images"]
    document_of(root, images=[*images, {"id": 50, "file_name": "./images/a.jpg", "height": 40, "width": 60}])


@case(TRUE, "")
def coco_with_absolute_paths(root: Path) -> None:
    images: list[dict[str, Any]] = coco_document(SAMPLE)["images"]
    document_of(root, images=[{**one, "file_name": f"/home/me/data/{one['file_name']}"} for one in images])


@case(TRUE, "Passed over, being no boxes: 4 lists of key points")
def coco_with_key_points_and_captions(root: Path) -> None:
    found: list[dict[str, Any]] = coco_document(SAMPLE)["annotations"]
    path = document_of(root, annotations=[{**one, "keypoints": [1, 1, 2], "num_keypoints": 1} for one in found])
    captions = {**coco_document(SAMPLE), "annotations": [{"id": 1, "image_id": 0, "caption": "a cat"}]}
    write_text(path.with_name("captions.json"), json.dumps(captions))


@case(None, r"instances\.json: the annotations are not JSON")
def coco_that_is_cut_off(root: Path) -> None:
    path = document_of(root)
    path.write_bytes(path.read_bytes()[:-30])


def yolo_with(text: str | bytes, names: str | None = None) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        yolo(root)
        if text is not None:
            write_text(root / "labels/train/b.txt", text)
        if names is not None:
            write_text(root / "data.yaml", names)

    return build


B = "1 0.25 0.25 0.5 0.5\n"
YOLO: dict[str, tuple[str | bytes, str | None, Any, str]] = {
    "a number too high": ("2 0.25 0.25 0.5 0.5", None, None, r"b\.txt, line 1: the class 2, and data\.yaml has 2 classes, 0 to 1"),
    "a number below 0": (B + "-1 0.25 0.25 0.5 0.5", None, None, r"b\.txt, line 2: the class -1"),
    "four numbers": (B + "1 0.25 0.25 0.5", None, without("b.jpg"), r"b\.jpg .*line 2 is not the number of a class and four numbers"),
    "words": ("dog 0.25 0.25 0.5 0.5", None, without("b.jpg"), r"line 1 is not the number of a class"),
    "pixels": ("1 12 12 25 25", None, without("b.jpg"), r"line 1 has 25 where parts of the image, 0 to 1, are expected"),
    "half a polygon": ("1 0.1 0.1 0.5 0.5 0.2 0.3 0.3", None, without("b.jpg"), "line 1 has 8 numbers: neither a box nor the corners"),
    "an infinite class": ("1e400 0.25 0.25 0.5 0.5", None, without("b.jpg"), "line 1 is not the number of a class"),
    "nan": ("1 nan 0.25 0.5 0.5", None, without("b.jpg"), r"line 1 has numbers that are none"),
    "an empty file": ("", None, {**TRUE, "b.jpg": []}, "2 images without a box: learned and tested as such"),
    "blank lines and a byte order mark": (b"\xef\xbb\xbf\r\n" + B.encode() + b"\r\n\r\n", None, TRUE, ""),
    "commas": (B.replace(" ", ", "), None, TRUE, ""),
    "binary": (b"\xff\xfe\x00\x01", None, without("b.jpg"), "Left out 1 image whose annotations cannot be read"),
    "beyond the edge": ("1 0.2 0.25 0.6 0.5", None, {**TRUE, "b.jpg": [Thing("dog", (0.0, 0.0, 25.0, 25.0))]},
        "partly outside of the image: cut at its edge"),
    "a class that is not used": (B, "names:\n  0: cat\n  1: dog\n  2: 'it''s'\n", TRUE, r"Left out, since no box is of them: \"it's\""),
    "names with comments": (B, "# pets\nnames: [cat, \"dog\"]  # two\nnc: 2\n", TRUE, ""),
    "names over lines": (B, "names: [\n  'cat',\n  'dog'\n]\nnc: 2", TRUE, ""),
    "a mapping in one line": (B, "names: {0: cat, 1: dog}", TRUE, ""),
    "a name twice": (B, "names: [cat, cat]", None, r"data\.yaml: the class 'cat' is listed twice"),
    "no names": (B, "names:\nnc: 2", None, r"data\.yaml: 'names' holds no list of classes"),
}  # fmt: skip
for _name, (_text, _names, _expected, _message) in YOLO.items():
    CASES[f"YOLO: {_name}"] = yolo_with(_text, _names), _expected, _message


@case(TRUE, "1 image without a file of annotations, so without boxes, as YOLO has it: images/train/c.jpg")
def yolo_without_a_file(root: Path) -> None:
    yolo(root)
    (root / "labels/train/c.txt").unlink()


@case(
    {name: [Thing(f"class {('cat', 'dog').index(one.label)}", one.box) for one in things] for name, things in TRUE.items()},
    r"No file names the classes of YOLO: write their names, one a line from that of class 0, into .*classes\.txt\.",
)
def yolo_without_names(root: Path) -> None:
    yolo(root)
    (root / "data.yaml").unlink()


def csv_of(*lines: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        photos(root, {"a.jpg": A})
        write_text(root / "boxes.csv", "\n".join(["filename,class,xmin,ymin,xmax,ymax", *lines]))

    return build


GOOD = "a.jpg,cat,10,5,30,35"
TABLES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "no class": ((GOOD, "a.jpg,,30,10,60,40"), None,
        r"boxes\.csv: 1 row with a box and no class in the column 'class', the first is row 2"),
    "no path": ((GOOD, ",dog,30,10,60,40"), None, r"boxes\.csv: row 2 has a box and no path"),
    "a side is missing": ((GOOD, "a.jpg,dog,30,,60,40"), {"a.jpg": [Thing(*CAT)]}, "no numbers, or damaged: 'dog'"),
    "words": ((GOOD, "a.jpg,dog,30,ten,60,40"), {"a.jpg": [Thing(*CAT)]}, "no numbers, or damaged: 'dog'"),
    "two spellings of a path": ((GOOD, "./a.jpg,dog,30,10,60,40"), {"a.jpg": TRUE["a.jpg"]}, ""),
    "a short row": ((GOOD, "a.jpg,dog,30"), None, "1 rows do not have 6 cells as the first line has; line 3 has 3"),
    "no such image": (("z.jpg,cat,10,5,30,35",), None, "1 of the 1 image in the annotations are not below"),
    "classes that look alike": ((GOOD, "a.jpg,Cat,30,10,60,40"), {"a.jpg": [Thing("Cat", (30, 10, 60, 40)), Thing(*CAT)]},
        "differ only by case"),
}  # fmt: skip
for _name, (_lines, _expected, _message) in TABLES.items():
    CASES[f"CSV: {_name}"] = csv_of(*_lines), _expected, _message


@case({"a.jpg": TRUE["a.jpg"]})
def a_table_with_sizes_that_are_none(root: Path) -> None:
    photos(root, {"a.jpg": A})
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax", "a.jpg,60,nan,cat,10,5,30,35", "a.jpg,x,1e999,dog,30,10,60,40"]
    write_text(root / "boxes.csv", "\n".join(lines))


@case(without("a.jpg"), r"Left out 1 image of another size than in the annotation file: a\.jpg")
def a_size_beyond_all_bounds(root: Path) -> None:
    labelme(root)
    document = json.loads((root / "a.json").read_text())
    write_text(root / "a.json", json.dumps(document | {"imageWidth": 10**21}))


@case(None, "3 of 4 annotation files cannot be read")
def yolo_with_words_in_most_files(root: Path) -> None:
    yolo(root)
    for name in "abd":
        write_text(root / f"labels/train/{name}.txt", "dog 1 2 3 4")
    write_text(root / "labels/train/c.txt", "0 0.5 0.5 0.1 0.1")


@case(TRUE, "Passed over, being no boxes: 1 of the kind line")
def labelme_with_lines(root: Path) -> None:
    labelme(root)
    document = json.loads((root / "a.json").read_text())
    document["shapes"].append({"label": "rope", "points": [[1, 1], [5, 5]], "shape_type": "line"})
    write_text(root / "a.json", json.dumps(document))


@case(without("a.jpg"), r"annotations cannot be read: a\.jpg .*a\.json: damaged: ValueError a rectangle with 1 corners")
def labelme_with_half_a_rectangle(root: Path) -> None:
    labelme(root)
    document = json.loads((root / "a.json").read_text())
    document["shapes"][0]["points"].pop()
    write_text(root / "a.json", json.dumps(document))


@case(without("a.jpg"), r"a\.json: the annotations are not JSON")
def labelme_that_is_cut_off(root: Path) -> None:
    labelme(root)
    (root / "a.json").write_bytes((root / "a.json").read_bytes()[:-10])


@case(without("a.jpg"), r"Left out 1 image whose annotations cannot be read: a\.jpg \(.*a\.json: the annotations are not JSON")
def labelme_that_is_cut_off_at_its_beginning(root: Path) -> None:
    labelme(root)
    (root / "a.json").write_bytes((root / "a.json").read_bytes()[:20])
    write_text(root / "settings.json", '{"theme": "dark"}')


@case(TRUE, r"Passed over 1 image listed again with the same boxes: \./images/a\.jpg \(of instances\.json\)")
def coco_of_one_image_twice_with_the_same_boxes(root: Path) -> None:
    document = coco_document(SAMPLE)
    images = [*document["images"], {"id": 50, "file_name": "./images/a.jpg", "height": 40, "width": 60}]
    again = [{**one, "image_id": 50} for one in document["annotations"][:2]]
    document_of(root, images=images, annotations=[*document["annotations"], *again])


@pytest.fixture(params=CASES)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any, str]:
    build, expected, message = CASES[request.param]
    build(tmp_path)
    return tmp_path, expected, message


def test_what_is_broken_is_read_right_or_refused_by_name(broken: tuple[Path, Any, str]) -> None:
    root, expected, message = broken
    if expected is None:
        with pytest.raises(DataError, match=message):
            read(root)
        return
    boxes, names, notes = read(root)
    assert listed(boxes, names) == expected
    assert len(names) == len(boxes) == len(boxes.files)
    assert sum(note.startswith("Left out") for note in notes) <= 1  # nothing is told twice
    if message:
        text = "\n".join(notes)
        assert re.search(message, text), text
    else:
        assert not [note for note in notes if note.startswith("Left out") or "swapped" in note or "partly" in note]


def turned_image(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """An image that is stored with this height and width, and turned by its metadata."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_boxes_of_turned_images(tmp_path: Path, orientation: int) -> None:
    """Stored 40 high and 60 wide. A box at the left upper corner of the stored pixels; its upright place by hand."""
    upright = {3: (50, 35, 60, 40), 6: (35, 0, 40, 10), 8: (0, 50, 5, 60)}[orientation]
    size = (40, 60) if orientation == 3 else (60, 40)
    for name, side, box in (("s", (40, 60), (0, 0, 10, 5)), ("u", size, upright)):
        turned_image(tmp_path / name / "a.jpg", orientation, (40, 60))
        turned_image(tmp_path / name / "b.jpg", 6, (40, 60))  # whose size tells
        write_text(tmp_path / name / "a.xml", voc_text("a.jpg", side, [Thing("cat", box)]))
        other = ((40, 60), (0, 0, 10, 5)) if name == "s" else ((60, 40), (35, 0, 40, 10))
        write_text(tmp_path / name / "b.xml", voc_text("b.jpg", other[0], [Thing("cat", other[1])]))
        boxes, _, notes = read(tmp_path / name)
        assert boxes.boxes.tolist() == [[*upright], [35, 0, 40, 10]]
        assert boxes.sizes.tolist() == [[*size], [60, 40]]
        told = "in the pixels as stored, by the sizes in the files" if name == "s" else "the boxes are taken to be upright"
        assert any(told in note for note in notes)
        assert not any("another size" in note for note in notes)


def test_where_boxes_lie_tells_how_they_are_meant(tmp_path: Path) -> None:
    turned_image(tmp_path / "a.jpg", 6, (40, 60))
    write_text(tmp_path / "boxes.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,45,0,60,40\n")
    assert read(tmp_path)[0].boxes.tolist() == [[0, 45, 40, 60]]


def test_an_image_that_cannot_be_opened_is_told_later(tmp_path: Path) -> None:
    voc(tmp_path)
    write_text(tmp_path / "JPEGImages/a.jpg", b"not an image")
    boxes, names, _ = read(tmp_path)
    assert listed(boxes, names) == TRUE  # by the size in the file; the image itself is refused where it is decoded


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    """Files with bytes changed, dropped or repeated at random are read, or refused with a sentence."""
    rng = np.random.default_rng(seed)
    build = [voc, yolo, labelme, document_of][seed % 4]
    build(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".xml", ".txt", ".json", ".yaml") and rng.random() < 0.7:
            data = bytearray(path.read_bytes())
            for _ in range(int(rng.integers(1, 4))):
                place = int(rng.integers(0, max(len(data), 1)))
                kind = int(rng.integers(0, 3))
                if kind == 0 and data:
                    data[min(place, len(data) - 1)] = int(rng.integers(0, 256))
                elif kind == 1:
                    del data[place : place + int(rng.integers(1, 30))]
                else:
                    data[place:place] = data[place : place + 20]
            path.write_bytes(data)
    try:
        boxes, _, _ = read(tmp_path)
    except HeadstartError as error:
        said = str(error)
    else:
        said = "read as it is, with what was repaired"
        limits = boxes.sizes[boxes.images][:, ::-1]
        assert np.isfinite(boxes.boxes).all()
        assert (boxes.boxes[:, :2] < boxes.boxes[:, 2:]).all()
        assert (boxes.boxes >= 0).all()
        assert (boxes.boxes[:, 2:] <= limits).all()
    assert len(said) > 20


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 40
