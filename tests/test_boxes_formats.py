"""The same boxes in each format read the same; parts, class numbers, shapes that become boxes; and what is for another task stays there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.data import BOX, MASK, ListOptions, box_reason, read_annotations, read_boxes, read_dataset
from headstart.errors import DataError
from made_boxes import (
    CLASSES,
    FORMATS,
    SAMPLE,
    Images,
    Thing,
    boxes_in,
    coco,
    coco_document,
    cvat,
    listed,
    photos,
    read,
    table,
    voc,
    voc_text,
    write_text,
    written,
    yolo,
    yolo_lines,
)  # fmt: skip
from made_masks import photo, write


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_boxes_in_each_format(tmp_path: Path, form: str) -> None:
    FORMATS[form](tmp_path, SAMPLE)
    boxes, names, notes = read(tmp_path)
    assert listed(boxes, names) == written(SAMPLE)
    assert boxes.classes == CLASSES
    assert boxes.sizes.tolist() == [[*size] for size, _ in SAMPLE.values()]
    assert "1 image without a box: learned and tested as such." in notes
    assert not [note for note in notes if note.startswith(("Left out", "Passed over"))]
    found = read_annotations(tmp_path)  # recognised without being asked for
    assert [*found.columns] == [BOX]
    assert (box_reason(found) or "").startswith("boxes, from ")
    assert boxes_in(read_dataset(tmp_path)).array.tobytes() == boxes.array.tobytes()


SIDES = st.integers(0, 4 * 50)


@st.composite
def some_images(draw: st.DrawFn) -> Images:
    images = dict[str, tuple[tuple[int, int], list[Thing]]]()
    for name in draw(st.lists(st.sampled_from(["a.jpg", "b 1.jpg", "Ünı.jpg", "d.x.jpg"]), min_size=1, unique=True)):
        things = list[Thing]()
        for _ in range(draw(st.integers(0, 3))):
            left, right = sorted(draw(st.tuples(SIDES, SIDES).filter(lambda pair: pair[0] != pair[1])))
            top, bottom = sorted(draw(st.tuples(SIDES, SIDES).filter(lambda pair: pair[0] != pair[1])))
            things.append(Thing(draw(st.sampled_from(CLASSES)), (left / 4, top / 4, right / 4, bottom / 4)))
        images[name] = (50, 64), things
    return images


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(some_images(), st.sampled_from([*FORMATS]))
def test_any_boxes_in_any_format(images: Images, form: str) -> None:
    if max((max(one.box) for _, things in images.values() for one in things), default=0) <= 1:
        return  # no box at all, or none that reaches beyond the first pixel: of tables that is read as parts of the image
    with tempfile.TemporaryDirectory() as folder:
        FORMATS[form](Path(folder), images)
        boxes, names, _ = read(Path(folder))
        found, expected = listed(boxes, names), written(images)
        assert found.keys() == expected.keys()
        for name, things in expected.items():
            assert [one.label for one in found[name]] == [one.label for one in things]
            sides = [np.array([one.box for one in some]).reshape(-1, 4) for some in (found[name], things)]
            np.testing.assert_allclose(*sides, atol=2e-3)


def test_category_numbers_are_those_of_the_data(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    yolo(tmp_path / "yolo")
    voc(tmp_path / "voc")
    assert read(tmp_path / "coco")[0].ids == (1, 7)
    assert read(tmp_path / "yolo")[0].ids == (0, 1)
    assert read(tmp_path / "voc")[0].ids == (1, 2)


def test_category_numbers_that_differ_between_files_are_given_up(tmp_path: Path) -> None:
    for part, ids in (("train", {"cat": 3, "dog": 4}), ("valid", {"dog": 9, "cat": 4})):
        images = {"a.jpg": SAMPLE["a.jpg"]}
        photos(tmp_path / part, images)
        write_text(tmp_path / part / "_annotations.coco.json", json.dumps(coco_document(images, ids)))
    boxes, _, _ = read(tmp_path)
    assert (boxes.classes, boxes.ids) == (("cat", "dog"), (1, 2))
    assert [boxes.classes[label] for label in boxes.labels] == ["dog", "cat"] * 2  # the larger first


def test_classes_of_a_run_are_matched_by_name(tmp_path: Path) -> None:
    yolo(tmp_path)
    boxes, names, _ = read(tmp_path, ("dog", "bird", "cat"))
    assert listed(boxes, names) == written(SAMPLE)
    assert boxes.classes == ("dog", "bird", "cat")
    with pytest.raises(DataError, match=r"the boxes of .* has a class that the run does not have: 'cat' \(2 images\)"):
        read(tmp_path, ("dog",))


@pytest.mark.parametrize("form", ["coco", "csv", "voc", "yolo", "darknet"])
def test_exports_of_roboflow(tmp_path: Path, form: str) -> None:
    for part, name in (("train", "a.jpg"), ("valid", "b.jpg"), ("test", "d.jpg")):
        folder, images = tmp_path / part, {name: SAMPLE[name]}
        size, things = SAMPLE[name]
        if form == "yolo":
            photos(folder / "images", images)
            write_text(folder / "labels" / f"{name[0]}.txt", yolo_lines(size, things))
            continue
        photos(folder, images)
        if form == "coco":
            document = coco_document(images, {"animals": 0, "cat": 1, "dog": 2})
            write_text(folder / "_annotations.coco.json", json.dumps(document))
        elif form == "csv":
            table(folder, images)
            (folder / "boxes.csv").rename(folder / "_annotations.csv")
        elif form == "voc":
            write_text(folder / f"{name[0]}.xml", voc_text(name, size, things, source="<database>roboflow.com</database>"))
        else:
            write_text(folder / f"{name[0]}.txt", yolo_lines(size, things))
            write_text(folder / "_darknet.labels", "cat\ndog\n")
    if form == "yolo":
        write_text(
            tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames:\n- cat\n- dog\nroboflow:\n  version: 2\n"
        )
    write_text(tmp_path / "README.roboflow.txt", "Exported from roboflow.com\n1 2 3 4 5\n")
    data = read_dataset(tmp_path)
    assert data.parts.tolist() == ["train", "val", "test"]
    assert listed(boxes_in(data), data.names()) == {name: written(SAMPLE)[name] for name in ("a.jpg", "b.jpg", "d.jpg")}
    if form == "coco":
        assert boxes_in(data).ids == (1, 2)
        assert "Left out, since no box is of them: 'animals'." in data.notes


def test_years_of_pascal_voc(tmp_path: Path) -> None:
    for year, names in (("VOC2007", ("a.jpg", "b.jpg", "c.jpg")), ("VOC2012", ("d.jpg",))):
        voc(tmp_path / "VOCdevkit" / year, {name: SAMPLE[name] for name in names})
    for part, names in (("train", "a c"), ("val", "b"), ("trainval", "a b c"), ("cat_train", "a c")):
        write_text(tmp_path / "VOCdevkit/VOC2007/ImageSets/Main" / f"{part}.txt", names.replace(" ", "  1\n") + "\n")
    one = read_dataset(tmp_path / "VOCdevkit" / "VOC2007")
    assert {name[-5:]: part for name, part in zip(one.names(), one.parts.tolist(), strict=True)} == {
        "a.jpg": "train", "b.jpg": "val", "c.jpg": "train"}  # fmt: skip
    both = read_dataset(tmp_path)
    assert listed(boxes_in(both), both.names()) == written(SAMPLE)


def test_voc_counts_from_one_where_it_says_so(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", (20, 30))
    things = [Thing("cat", (1, 1, 30, 20))]
    for source, expected in (
        ("<database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation>", (0, 0, 30, 20)),
        ("<database>Unknown</database>", (1, 1, 30, 20)),
    ):
        write_text(tmp_path / "a.xml", voc_text("a.jpg", (20, 30), things, source=source))
        assert boxes_in(read_dataset(tmp_path)).boxes.tolist() == [[*expected]]


def test_difficult_objects_and_crowds(tmp_path: Path) -> None:
    photo(tmp_path / "voc" / "a.jpg", (40, 60))
    text = voc_text("a.jpg", *SAMPLE["a.jpg"]).replace("<difficult>0", "<difficult>1", 1)
    write_text(tmp_path / "voc" / "a.xml", text)
    assert read(tmp_path / "voc")[0].crowd.tolist() == [True, False]
    coco(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances.json"
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [0, 2400]}}
    path.write_text(json.dumps(document))
    boxes = read(tmp_path / "coco")[0]
    assert (boxes.crowd.sum(), boxes.objects()) == (1, {"cat": 1, "dog": 2})
    np.testing.assert_array_equal(boxes.boxes[boxes.crowd], [[10, 5, 30, 35]])  # the box in the file, not that of its mask


def test_shapes_become_their_boxes(tmp_path: Path) -> None:
    from headstart.pixels.runs import encoded

    mask = np.zeros((40, 60), bool)
    mask[5:35, 10:30] = True
    for place, segmentation in enumerate(([[10, 5, 30, 20, 20, 35]], encoded(mask))):
        root = tmp_path / f"coco{place}"
        photo(root / "images" / "a.jpg", (40, 60))
        document = coco_document({"a.jpg": SAMPLE["a.jpg"]})
        document["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": segmentation}]
        write_text(root / "annotations/instances.json", json.dumps(document))
        found = read_annotations(root)
        assert [*found.columns] == [MASK]
        assert box_reason(found) is None
        boxes, _, notes = read(root)
        assert boxes.boxes.tolist() == [[10, 5, 30, 35]]
        assert "Of 1 shape that is more than a box, the box around is used." in notes
    yolo(tmp_path / "yolo", {"a.jpg": SAMPLE["a.jpg"]})
    ring = [(10 / 60, 5 / 40), (30 / 60, 20 / 40), (20 / 60, 35 / 40)]
    write_text(tmp_path / "yolo/labels/train/a.txt", "0 " + " ".join(f"{x} {y}" for x, y in ring))
    np.testing.assert_allclose(read(tmp_path / "yolo")[0].boxes, [[10, 5, 30, 35]], atol=1e-4)
    photo(tmp_path / "cvat/a.jpg", (40, 60))
    ellipse = '<ellipse label="cat" cx="20" cy="20" rx="15" ry="10" rotation="90"/>'
    write_text(tmp_path / "cvat/x.xml", f'<annotations><image name="a.jpg" width="60" height="40">{ellipse}</image></annotations>')
    np.testing.assert_allclose(read(tmp_path / "cvat")[0].boxes, [[10, 5, 30, 35]], atol=1e-4)


def test_rectangles_drawn_as_polygons_are_boxes(tmp_path: Path) -> None:
    coco(tmp_path)
    path = tmp_path / "annotations/instances.json"
    document = json.loads(path.read_text())
    for one in document["annotations"]:
        left, top, width, height = one["bbox"]
        one["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    path.write_text(json.dumps(document))
    data = read_dataset(tmp_path)
    assert listed(boxes_in(data), data.names()) == written(SAMPLE)


def test_tables_of_other_programs(tmp_path: Path) -> None:
    photos(tmp_path, SAMPLE)
    rows = [(name, size, thing) for name, (size, things) in SAMPLE.items() for thing in things]
    tables = {
        "keras": [f"photos/{name},{','.join(map(str, box))},{label}" for name, _, (label, box) in rows],
        "open images": ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf"] + [
            f"{name[0]},xclick,{label},1,{x / w},{r / w},{t / h},{b / h},0,0" for name, (h, w), (label, (x, t, r, b)) in rows],
        "corner and size": ["image;x;y;w;h;class"] + [f"{n};{x};{t};{r - x};{b - t};{c}" for n, _, (c, (x, t, r, b)) in rows],
        "one cell": ["image_id,width,height,bbox,source"] + [
            f'{n[0]},{w},{h},"[{x}, {t}, {r - x}, {b - t}]",{c}' for n, (h, w), (c, (x, t, r, b)) in rows],
        "makesense": ["label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height"] + [
            f"{c},{x},{t},{r - x},{b - t},{n},{w},{h}" for n, (h, w), (c, (x, t, r, b)) in rows],
        "centres": ["file,x_center,y_center,width,height,label"] + [
            f"C:\\data\\{n},{(x + r) / 2 / w},{(t + b) / 2 / h},{(r - x) / w},{(b - t) / h},{c}" for n, (h, w), (c, (x, t, r, b)) in rows],
    }  # fmt: skip
    expected = {name: things for name, things in written(SAMPLE).items() if things}
    for name, lines in tables.items():
        path = write_text(tmp_path / f"{name}.csv", "\ufeff" + "\r\n".join(lines))
        data = read_dataset(path)
        found = listed(boxes_in(data), data.names())
        if name == "one cell":  # which names no class
            assert boxes_in(data).classes == ("object",)
            assert any(note.startswith("one cell.csv has no column of classes: all boxes are of the") for note in data.notes)
            assert not data.grouped
            found = {image: sorted(one.box for one in things) for image, things in found.items()}
            assert found == {image: sorted(one.box for one in things) for image, things in expected.items()}
            path.unlink()
            continue
        assert found == expected, name
        path.unlink()


def test_a_list_with_boxes_in_its_cells_is_read_back(tmp_path: Path) -> None:
    coco(tmp_path / "data")
    data = read_dataset(tmp_path / "data")
    quoted = ['"' + boxes_in(data).cells(row)["boxes"].replace('"', '""') + '"' for row in range(len(data))]
    path = write_text(tmp_path / "split.csv", "\n".join(["path,boxes", *(f"{p},{c}" for p, c in zip(data.inputs, quoted, strict=True))]))
    again = boxes_in(read_dataset(path))
    assert again.array.tobytes() == boxes_in(data).array.tobytes()
    assert again.classes == CLASSES
    rows = [{"file_name": str(path), "objects": {"bbox": [[1, 2, 3, 4]], "category": ["cat"]}} for path in data.inputs[:2]]
    path = write_text(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    assert boxes_in(read_dataset(path)).boxes.tolist() == [[1, 2, 4, 6]] * 2


def test_folders_of_classes_stay_classes(tmp_path: Path) -> None:
    for name, (size, things) in SAMPLE.items():
        folder = "pets" if name in ("a.jpg", "b.jpg") else "others"
        photo(tmp_path / folder / name, size)
        write_text(tmp_path / folder / f"{name[0]}.xml", voc_text(name, size, things))
    data = read_dataset(tmp_path)
    assert data.classes == ("others", "pets")
    assert any(note.startswith("There are boxes as well (the annotations of Pascal VOC in") for note in data.notes)
    boxes, names, _ = read(tmp_path)
    assert listed(boxes, names) == written(SAMPLE)


def test_one_format_of_several_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    voc(tmp_path)
    for name, (size, things) in SAMPLE.items():
        write_text(tmp_path / "labels" / f"{name[0]}.txt", yolo_lines(size, things))
    boxes, names, notes = read(tmp_path)
    assert listed(boxes, names) == written(SAMPLE)
    assert "Boxes are read from Pascal VOC; passed over: 4 files of YOLO." in notes


def test_files_that_are_given_by_name(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    cvat(tmp_path / "cvat")
    yolo(tmp_path / "yolo")
    for path in ("coco/annotations/instances.json", "cvat/annotations.xml", "yolo/data.yaml"):
        data = read_dataset(tmp_path / path)
        assert listed(boxes_in(data), data.names()) == written(SAMPLE)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "coco/annotations/instances.json", tmp_path / "elsewhere/boxes.json")
    with pytest.raises(DataError, match="4 of the 4 images in the annotations are not below"):
        read_dataset(tmp_path / "elsewhere/boxes.json")
    data = read_dataset(tmp_path / "elsewhere/boxes.json", lists=ListOptions(image_root=tmp_path / "coco"))
    assert listed(boxes_in(data), data.names()) == written(SAMPLE)


def test_raccoons(shared_data: Path) -> None:
    data = read_dataset(shared_data / "det_raccoon")
    boxes = boxes_in(data)
    assert {part: int((data.parts == part).sum()) for part in ("train", "test")} == {"train": 160, "test": 40}
    assert (boxes.classes, len(boxes.boxes), len(boxes)) == (("raccoon",), 217, 200)
    assert boxes.sizes.max() <= 512
    row = [name.rpartition("/")[2] for name in data.names()].index("raccoon-1.jpg")
    assert boxes.of(row)[0].tolist() == [[64, 69, 411, 321]]
    assert boxes.sizes[row].tolist() == [328, 512]
    assert not [note for note in data.notes if "swapped" in note or "wholly" in note or "an area" in note]


def test_boxes_to_test_on_are_given_apart(tmp_path: Path) -> None:
    voc(tmp_path / "train")
    coco(tmp_path / "test", {"e.jpg": ((30, 30), [Thing("dog", (1, 2, 3, 4))])})
    data = read_dataset(tmp_path / "train", test=tmp_path / "test")
    assert data.parts.tolist() == ["train"] * 4 + ["test"]
    boxes = boxes_in(data)
    assert boxes.classes == CLASSES
    assert boxes.of(4)[0].tolist() == [[1, 2, 3, 4]]
    assert boxes.files[4].endswith("instances.json")
    assert boxes.ids == (1, 7)  # the only numbers that there are


YAML_PARTS = {
    "the ends of paths of another machine": ("train: /content/birds/fold1/images\nval: /content/birds/fold2/images", ["train", "val"]),
    "labels are meant": ("train: ..\\\\fold1\\\\images\ntest: 'fold2/images'  # held out", ["train", "test"]),
    "lists": ("train:\n  - ../fold1/images\nval: [../fold2/images]", ["train", "val"]),
    "one folder for both": ("train: fold1/images\nval: fold1/images", ["", ""]),
    "folders that are not there": ("train: a/images\nval: b/images", ["", ""]),
}


@pytest.mark.parametrize("case", YAML_PARTS)
def test_parts_of_yolo_by_the_paths_that_are_there(tmp_path: Path, case: str) -> None:
    text, parts = YAML_PARTS[case]
    for fold, image in (("fold1", "a.jpg"), ("fold2", "d.jpg")):
        size, things = SAMPLE[image]
        photo(tmp_path / fold / "images" / image, size)
        write_text(tmp_path / fold / "labels" / f"{image[0]}.txt", yolo_lines(size, things))
    write_text(tmp_path / "data.yaml", f"names: [cat, dog]\n{text}\n")
    data = read_dataset(tmp_path)
    assert data.parts.tolist() == parts
    assert listed(boxes_in(data), data.names()) == {name: written(SAMPLE)[name] for name in ("a.jpg", "d.jpg")}


def test_boxes_beside_masks_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    voc(tmp_path)
    write(tmp_path / "SegmentationClass/a.png", np.ones((40, 60), np.uint8))
    write(tmp_path / "SegmentationClass/b.png", np.zeros((50, 50), np.uint8))
    assert [*read_annotations(tmp_path).columns] == [MASK]
    boxes, names, _ = read(tmp_path)
    assert listed(boxes, names) == written(SAMPLE)


def test_darknet_with_lists_of_parts(tmp_path: Path) -> None:
    folder = tmp_path / "obj_train_data"
    photos(folder, SAMPLE)
    for name, (size, things) in SAMPLE.items():
        write_text(folder / f"{name[0]}.txt", yolo_lines(size, things))
    write_text(tmp_path / "obj.names", "cat\ndog\n")
    write_text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    write_text(tmp_path / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n")
    write_text(tmp_path / "valid.txt", "data/obj_train_data/c.jpg\ndata/obj_train_data/d.jpg\n")
    data = read_dataset(tmp_path)
    assert listed(boxes_in(data), data.names()) == written(SAMPLE)
    assert {name[-5:]: part for name, part in zip(data.names(), data.parts.tolist(), strict=True)} == {
        "a.jpg": "train", "b.jpg": "train", "c.jpg": "val", "d.jpg": "val"}  # fmt: skip


def test_files_belong_to_the_images_of_their_folder(tmp_path: Path) -> None:
    """Sets of several places, with the same names in each."""
    for place, image in (("north", "a.jpg"), ("south", "d.jpg")):
        size, things = SAMPLE[image]
        photo(tmp_path / place / "images" / "1.jpg", size)
        write_text(tmp_path / place / "labels" / "1.txt", yolo_lines(size, things))
        write_text(tmp_path / place / "classes.txt", "cat\ndog\n")
    data = read_dataset(tmp_path)
    assert data.names() == ("north/images/1.jpg", "south/images/1.jpg")
    found = [sorted(boxes_in(data).classes[label] for label in boxes_in(data).of(row)[1]) for row in range(2)]
    assert found == [["cat", "dog"], ["cat"]]


def test_captions_are_no_boxes(tmp_path: Path) -> None:
    for kind in ("cats", "dogs"):
        for number in range(3):
            photo(tmp_path / kind / f"{number}.jpg")
            write_text(tmp_path / kind / f"{number}.txt", "a cat on a mat\n")
    data = read_dataset(tmp_path)
    assert data.classes == ("cats", "dogs")
    assert not any("boxes" in note for note in data.notes)


@pytest.mark.parametrize("order", ["images categories annotations", "annotations categories images", "categories images annotations"])
def test_large_files_of_coco_are_told_by_their_ends(tmp_path: Path, order: str) -> None:
    coco(tmp_path)
    document: dict[str, Any] = coco_document(SAMPLE)
    document["images"] += [{"id": 1000 + i, "file_name": f"none/{i:060}.jpg", "height": 9, "width": 9} for i in range(3)]
    for key in ("images", "annotations"):
        document[key][1]["note"] = "x" * 140_000
    write_text(tmp_path / "annotations/instances.json", json.dumps({key: document[key] for key in order.split()}))
    boxes, names, notes = read(tmp_path)
    assert listed(boxes, names) == written(SAMPLE)
    assert any(note.startswith("Left out 3 images that are not there") for note in notes)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path)
    monkeypatch.setattr("headstart.data.drawing_files.MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"instances\.json: [0-9]+ bytes; at most 100 are read. Export it in parts."):
        read(tmp_path)


def test_where_there_are_no_boxes(tmp_path: Path) -> None:
    for name in ("cats/1.jpg", "dogs/2.jpg"):
        photo(tmp_path / name)
    with pytest.raises(DataError, match=r": there are no boxes\. Known are the files of Pascal VOC, COCO, YOLO"):
        read_boxes(read_annotations(tmp_path, prefer=BOX))
    voc(tmp_path / "voc")
    with pytest.raises(DataError, match="holds images with boxes, and nothing says which class an image as a whole has"):
        _ = read_annotations(tmp_path / "voc").labels
