"""Records of class maps as one document of COCO: images, categories, and an annotation for each class or each region."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.pixels.outlines import Region, regions
from headstart.pixels.runs import decoded, encoded
from headstart.records import Record

FORMS = ("coco", "coco-polygons")
"""Masks as run lengths, one a class and image; and regions as polygons."""


def coco_document(records: Sequence[Record], classes: Sequence[str], *, form: str = "coco") -> str:
    """The records of images that could be read, as JSON.

    The number of a category is the position of its class and one. Polygons hold exactly the pixels of their region; a region with holes,
    which polygons of COCO cannot have, has run lengths instead.

    Source: https://cocodataset.org/#format-data
    """
    if form not in FORMS:
        raise ParameterError(f"the format must be one of {', '.join(FORMS)}; got {form!r}.")
    known = [record for record in records if not record.error]
    images = [
        {"id": number, "file_name": record.name, "height": record.values["height"], "width": record.values["width"]}
        for number, record in enumerate(known, 1)
    ]
    annotations = [
        {"id": 0, "image_id": number, "category_id": list(classes).index(name) + 1, **entry}
        for number, record in enumerate(known, 1)
        for name, mask in record.values["masks"].items()
        for entry in (_class_entries(mask) if form == "coco" else _region_entries(mask))
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    info = {"description": "Written by Headstart"}
    return json.dumps(
        {"info": info, "images": images, "categories": categories, "annotations": annotations}, ensure_ascii=False, separators=(",", ":")
    )


def _class_entries(mask: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    inside = decoded(mask)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows):
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        yield {"segmentation": dict(mask), "area": int(inside.sum()), "bbox": [int(side) for side in box], "iscrowd": 0}


def _region_entries(mask: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    inside = decoded(mask)
    for region in regions(inside):
        drawn = [region.outline.ravel().tolist()] if not region.holes else encoded(filled_region(region, inside.shape))
        yield {"segmentation": drawn, "area": region.area, "bbox": list(region.box), "iscrowd": 0}


def filled_region(region: Region, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels of a region: bool (H, W). Each vertical edge of its outlines turns inside and outside about for what is right of it."""
    turns = np.zeros((size[0], size[1] + 1), dtype=np.int8)
    for ring in (region.outline, *region.holes):
        for (x, y), (_, below) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            turns[min(y, below) : max(y, below), x] += 1
    return np.asarray(np.cumsum(turns, axis=1)[:, :-1] % 2 == 1)
