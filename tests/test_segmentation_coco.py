"""COCO documents of class maps, read back pixel by pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from headstart.errors import ImageError, ParameterError
from headstart.pixels.outlines import regions
from headstart.pixels.runs import decoded
from headstart.tasks.segmentation.coco import coco_document, filled_region
from headstart.tasks.segmentation.predictions import MaskPredictions, records

CLASSES = ("background", "person", "dog")


def _document(masks: list[np.ndarray], form: str) -> tuple[dict, list[np.ndarray]]:
    """The document of images of 8 x 6 pixels with these class maps, and one that was refused."""
    logits = np.stack([9.0 * (np.arange(3)[:, None, None] == mask) for mask in masks]).astype(np.float32)
    predictions = MaskPredictions(
        outputs={"logits": logits}, kept=np.arange(len(masks)), sizes=np.array([[8, 6]] * len(masks)), classes=CLASSES,
        refused=(ImageError("broken.jpg", "is empty"),), refused_at=(len(masks),),
    )  # fmt: skip
    found = records([f"{place}.jpg" for place in range(len(masks))] + ["broken.jpg"], predictions)
    return json.loads(coco_document(found, CLASSES, form=form)), [predictions.mask(row) for row in range(len(masks))]


def _pixels(segmentation: object) -> np.ndarray:
    if isinstance(segmentation, dict):
        return decoded(segmentation)
    picture = Image.new("1", (60, 80))
    for ring in segmentation:  # type: ignore[attr-defined]
        ImageDraw.Draw(picture).polygon([(10 * x, 10 * y) for x, y in zip(ring[::2], ring[1::2], strict=True)], fill=1)
    return np.asarray(picture)[5::10, 5::10]


@pytest.mark.parametrize("form", ["coco", "coco-polygons"])
@given(masks=st.lists(arrays(np.uint8, (8, 6), elements=st.integers(0, 2)), min_size=1, max_size=2))
def test_annotations_hold_the_pixels_of_each_class(form: str, masks: list[np.ndarray]) -> None:
    document, expected = _document(masks, form)
    assert [image["file_name"] for image in document["images"]] == [f"{place}.jpg" for place in range(len(masks))]
    assert {(image["height"], image["width"]) for image in document["images"]} == {(8, 6)}
    assert document["categories"] == [{"id": 1, "name": "background"}, {"id": 2, "name": "person"}, {"id": 3, "name": "dog"}]
    found = np.full((len(masks), 8, 6), 255)
    for annotation in document["annotations"]:
        inside = _pixels(annotation["segmentation"])
        assert annotation["area"] == inside.sum()
        rows, columns = np.nonzero(inside)
        left, top, width, height = annotation["bbox"]
        assert (left, top, left + width, top + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        place = annotation["image_id"] - 1
        assert (found[place][inside] == 255).all()  # no pixel has two classes
        found[place][inside] = annotation["category_id"] - 1
    np.testing.assert_array_equal(found, expected)
    assert [annotation["id"] for annotation in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))


def test_a_region_with_a_hole_has_run_lengths() -> None:
    mask = np.zeros((8, 6), np.uint8)
    mask[1:6, 1:5], mask[3, 3] = 1, 0
    document, _ = _document([mask], "coco-polygons")
    kinds = [(annotation["category_id"], type(annotation["segmentation"])) for annotation in document["annotations"]]
    assert sorted(kinds, key=str) == [(1, dict), (1, list), (2, dict)]  # the background has a hole, too


@given(mask=arrays(np.bool_, (7, 9)))
def test_regions_filled_again_are_the_mask(mask: np.ndarray) -> None:
    found = np.zeros_like(mask)
    for region in regions(mask):
        found ^= filled_region(region, mask.shape)
    np.testing.assert_array_equal(found, mask)


def test_another_format_is_refused() -> None:
    with pytest.raises(ParameterError, match="one of coco, coco-polygons; got 'voc'"):
        coco_document([], CLASSES, form="voc")
    assert json.loads(coco_document([], CLASSES))["images"] == []
