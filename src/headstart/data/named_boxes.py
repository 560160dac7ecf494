"""Public sets of torchvision with boxes, by name: ``torchvision:VOCDetection:2007``, ``torchvision:Kitti``, ``torchvision:WIDERFace``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.data.annotations import BOX, Annotations, Column
from headstart.data.drawing_files import read_bytes
from headstart.data.drawings import parsing
from headstart.data.shapes import DrawnShapes, Rectangle, Shape
from headstart.data.voc import read_voc
from headstart.errors import DataError

Parts = tuple[tuple[str, dict[str, Any]], ...]
"""The parts of a set, each with the arguments by which torchvision opens it."""


@dataclass(frozen=True)
class BoxSet:
    """A set with boxes.

    Attributes:
        versions: the parts of each version, by its name; the first is the default.
        drawn: the images of an opened part with what is drawn on them.
    """

    versions: Mapping[str, Parts]
    drawn: Callable[[Any], Iterator[tuple[Path, DrawnShapes]]]


def _drawn_voc(data: Any) -> Iterator[tuple[Path, DrawnShapes]]:
    for image, file in zip(data.images, data.targets, strict=True):
        yield Path(image), read_voc(read_bytes(Path(file)), Path(file)).on(str(image))


KITTI = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
"""The classes of KITTI. In its regions ``DontCare`` there are things, of any of them, that nobody has marked one by one."""


def _drawn_kitti(data: Any) -> Iterator[tuple[Path, DrawnShapes]]:
    for image, file in sorted(zip(data.images, data.targets, strict=True)):
        shapes = list[Shape]()
        for line in read_bytes(Path(file)).decode("utf-8", "replace").splitlines():
            with parsing(Path(file), "an object of KITTI"):
                kind, *numbers = line.split()
                box = Rectangle(*map(float, numbers[3:7]))
                shapes += [Shape(name, box, crowd=True) for name in KITTI] if kind == "DontCare" else [Shape(kind, box)]
        yield Path(image), DrawnShapes(str(file), str(image), None, tuple(shapes))


def _drawn_faces(data: Any) -> Iterator[tuple[Path, DrawnShapes]]:
    for one in data.img_info:
        image, found = one["img_path"], one["annotations"]
        # The columns of the files end in invalid, occlusion, pose; torchvision calls these occlusion, pose, invalid.
        sides, invalid = found["bbox"].tolist(), found["occlusion"].tolist()
        shapes = tuple(
            Shape("face", Rectangle(left, top, left + width, top + height), crowd=bool(unsure))
            for (left, top, width, height), unsure in zip(sides, invalid, strict=True)
            if width > 0 and height > 0  # an image without a face has one box of zeros
        )
        yield Path(image), DrawnShapes(f"WIDER FACE, {data.split}", str(image), None, shapes)


def _voc(year: str) -> Parts:
    return ("train", {"year": year, "image_set": "train"}), ("test", {"year": year, "image_set": "val"})


BOX_SETS: Mapping[str, BoxSet] = {
    "VOCDetection": BoxSet(
        {
            "2012": _voc("2012"),
            "2007": tuple((part, {"year": "2007", "image_set": part}) for part in ("train", "val", "test")),
            **{year: _voc(year) for year in ("2008", "2009", "2010", "2011")},
        },
        _drawn_voc,
    ),
    "Kitti": BoxSet({"": (("", {"train": True}),)}, _drawn_kitti),
    "WIDERFace": BoxSet({"": (("train", {"split": "train"}), ("test", {"split": "val"}))}, _drawn_faces),
}
"""The sets of torchvision with boxes that it can download itself; where nobody may see the boxes of the test part, the validation part
is the test part.
"""


def read_torchvision_boxes(name: str, opened: Callable[[str, dict[str, Any]], Any], root: Path) -> Annotations:
    """Read one of the sets in `BOX_SETS`, ``NAME`` or ``NAME:VERSION``, all parts of it.

    `opened` is called with the name of torchvision's class and its arguments. DataError for a version that there is not, or damaged files.
    """
    kind, _, version = name.partition(":")
    known = BOX_SETS[kind].versions
    if version and version not in known:
        allowed = f"known are {', '.join(f'torchvision:{kind}:{one}' for one in known)}" if "" not in known else "it has no versions"
        raise DataError(f"torchvision:{name} is not known; {allowed}.")
    images, drawn, parts = list[Path](), list[DrawnShapes](), list[str]()
    for part, arguments in known[version or next(iter(known))]:
        for image, shapes in BOX_SETS[kind].drawn(opened(kind, arguments)):
            images.append(image)
            drawn.append(shapes)
            parts.append(part)
    column = Column(list(drawn), [one.cell for one in drawn], f"the boxes of torchvision:{name}")
    reason = f"torchvision:{name} has boxes, and nothing says which class an image as a whole has."
    return Annotations(tuple(images), {BOX: column}, parts=parts, source=f"torchvision:{name}", root=root, learned=(), reason=reason)
