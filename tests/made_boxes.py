"""Small made-up images with boxes, and what writes them in each format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from headstart.data import Boxes, Dataset, read_annotations, read_boxes
from made_masks import photo


class Thing(NamedTuple):
    label: str
    box: tuple[float, float, float, float]


Images = Mapping[str, tuple[tuple[int, int], Sequence[Thing]]]
"""Height and width, and the things, by the name of the image."""

CLASSES = ("cat", "dog")
SAMPLE: Images = {
    "a.jpg": ((40, 60), [Thing("cat", (10, 5, 30, 35)), Thing("dog", (30, 10, 60, 40))]),
    "b.jpg": ((50, 50), [Thing("dog", (0, 0, 25, 25))]),
    "c.jpg": ((30, 40), []),
    "d.jpg": ((64, 32), [Thing("cat", (8, 16, 24, 48))]),
}


def boxes_in(data: Dataset) -> Boxes:
    assert isinstance(data.targets, Boxes)
    return data.targets


def read(source: Path, classes: Sequence[str] | None = None) -> tuple[Boxes, tuple[str, ...], list[str]]:
    """The boxes of data, whatever else they are, the names of the images, and the notes."""
    found = read_annotations(source, prefer="boxes")
    boxes = read_boxes(found, classes)
    return boxes, found.names(), found.notes


def listed(boxes: Boxes, names: Sequence[str]) -> dict[str, list[Thing]]:
    """What was read, as it was written."""
    return {
        name.rpartition("/")[2]: sorted(
            Thing(boxes.classes[label], tuple(round(side, 3) for side in box.tolist()))
            for box, label, _ in zip(*boxes.of(row), strict=True)
        )
        for row, name in enumerate(names)
    }


def written(images: Images) -> dict[str, list[Thing]]:
    return {name: sorted(Thing(label, tuple(map(float, box))) for label, box in things) for name, (_, things) in images.items()}


def photos(root: Path, images: Images) -> None:
    for name, (size, _) in images.items():
        photo(root / name, size)


def voc_text(
    name: str, size: tuple[int, int], things: Sequence[Thing], *, source: str = "<database>Unknown</database>", more: str = ""
) -> str:
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in things
    )
    return (
        f"<annotation><folder>images</folder><filename>{name}</filename><source>{source}</source><size><width>{size[1]}</width>"
        f"<height>{size[0]}</height><depth>3</depth></size>{objects}{more}</annotation>"
    )


def write_text(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def voc(root: Path, images: Images = SAMPLE) -> None:
    photos(root / "JPEGImages", images)
    for name, (size, things) in images.items():
        write_text(root / "Annotations" / f"{Path(name).stem}.xml", voc_text(name, size, things))


def coco_document(images: Images, ids: Mapping[str, int] = {"cat": 1, "dog": 7}) -> dict[str, list[dict[str, object]]]:
    return {
        "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, (name, ((h, w), _)) in enumerate(images.items())],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [
            {
                "id": 100 * i + j,
                "image_id": i,
                "category_id": ids[label],
                "bbox": [x, y, r - x, b - y],
                "area": (r - x) * (b - y),
                "iscrowd": 0,
            }
            for i, (_, things) in enumerate(images.values())
            for j, (label, (x, y, r, b)) in enumerate(things)
        ],
    }


def coco(root: Path, images: Images = SAMPLE) -> None:
    photos(root / "images", images)
    write_text(root / "annotations" / "instances.json", json.dumps(coco_document(images)))


def yolo_lines(size: tuple[int, int], things: Sequence[Thing], classes: Sequence[str] = CLASSES) -> str:
    height, width = size
    return "".join(
        f"{classes.index(label)} {(x + r) / 2 / width!r} {(y + b) / 2 / height!r} {(r - x) / width!r} {(b - y) / height!r}\n"
        for label, (x, y, r, b) in things
    )


def yolo(root: Path, images: Images = SAMPLE) -> None:
    photos(root / "images" / "train", images)
    for name, (size, things) in images.items():
        write_text(root / "labels" / "train" / f"{Path(name).stem}.txt", yolo_lines(size, things))
    write_text(root / "data.yaml", "path: ../datasets/pets  # of another machine\ntrain: images/train\nnc: 2\nnames: ['cat', 'dog']\n")


def table(root: Path, images: Images = SAMPLE) -> None:
    photos(root, images)
    with (root / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for name, (size, things) in images.items():
            for label, box in things or [("", ("", "", "", ""))]:
                writer.writerow([name, size[1], size[0], label, *box])


def labelme(root: Path, images: Images = SAMPLE) -> None:
    photos(root, images)
    for name, (size, things) in images.items():
        shapes = [{"label": label, "points": [[box[2], box[1]], [box[0], box[3]]], "shape_type": "rectangle"} for label, box in things]
        document = {"shapes": shapes, "imagePath": name, "imageHeight": size[0], "imageWidth": size[1]}
        write_text(root / f"{Path(name).stem}.json", json.dumps(document))


def cvat(root: Path, images: Images = SAMPLE) -> None:
    photos(root / "images", images)
    drawn = "".join(
        f'<image id="{i}" name="{name}" width="{size[1]}" height="{size[0]}">'
        + "".join(f'<box label="{label}" xtl="{b[0]}" ytl="{b[1]}" xbr="{b[2]}" ybr="{b[3]}" z_order="0"/>' for label, b in things)
        + "</image>"
        for i, (name, (size, things)) in enumerate(images.items())
    )
    write_text(root / "annotations.xml", f"<?xml version='1.0'?><annotations><version>1.1</version>{drawn}</annotations>")


def _region(size: tuple[int, int], thing: Thing) -> dict[str, object]:
    (height, width), (label, (x, y, r, b)) = size, thing
    sides = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * (r - x) / width, "height": 100 * (b - y) / height, "rotation": 0}
    return {"original_width": width, "original_height": height, "value": {**sides, "rectanglelabels": [label]}}


def label_studio(root: Path, images: Images = SAMPLE) -> None:
    photos(root, images)
    tasks = [
        {"id": i, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
         "annotations": [{"was_cancelled": False, "result": [{**_region(size, thing), "type": "rectanglelabels"} for thing in things]}]}
        for i, (name, (size, things)) in enumerate(images.items())
    ]  # fmt: skip
    write_text(root / "export.json", json.dumps(tasks))


def label_studio_min(root: Path, images: Images = SAMPLE) -> None:
    photos(root, images)
    tasks = []
    for i, (name, (size, things)) in enumerate(images.items()):
        regions = [_region(size, thing) for thing in things]
        flat = [{**{key: value for key, value in one.items() if key != "value"}, **one["value"]} for one in regions]  # type: ignore[dict-item]
        tasks.append({"image": f"/data/local-files/?d=photos/{name}", "id": i, **({"label": flat} if flat else {})})
    write_text(root / "export.json", json.dumps(tasks))


FORMATS: dict[str, Callable[[Path, Images], None]] = {
    "voc": voc, "coco": coco, "yolo": yolo, "csv": table, "labelme": labelme, "cvat": cvat, "label studio": label_studio,
    "label studio min": label_studio_min,
}  # fmt: skip
