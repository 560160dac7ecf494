"""Class maps as predictions and records: sizes, areas, masks in COCO's form, PNG."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from headstart.errors import ImageError
from headstart.pixels.runs import decoded
from headstart.records import csv_header, csv_records, json_object
from headstart.tasks.segmentation.predictions import MaskPredictions, columns, record, records, tensors

CLASSES = ("background", "person", "dog")


def _predictions() -> MaskPredictions:
    """Two images, 3 x 2 logits: the first has a left and a right half, the second is all of one class."""
    logits = np.full((2, 3, 2, 2), -2, np.float32)
    logits[0, 0, :, 0], logits[0, 1, :, 1] = 2, 2
    logits[1, 2] = 5
    return MaskPredictions(
        outputs={"logits": logits}, kept=np.array([0, 2]), sizes=np.array([[10, 20], [7, 3]]), classes=CLASSES,
        refused=(ImageError("b.jpg", "is not an image"),), refused_at=(1,),
    )  # fmt: skip


def test_maps_have_the_size_of_the_input() -> None:
    found = _predictions()
    mask = found.mask(0)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.arange(20).reshape(1, 20).repeat(10, axis=0) >= 10)
    assert (found.mask(1) == 2).all()
    assert [mask.shape for mask in found.masks] == [(10, 20), (7, 3)]
    assert found.confidence(0)[0, 0] == pytest.approx(1 / (1 + 2 * np.exp(-4)), abs=1e-6)


def test_records_say_what_is_where() -> None:
    first, refused, second = records(["a.jpg", "b.jpg", "c.jpg"], _predictions())
    assert (first.name, first.kind, first.error) == ("a.jpg", "mask", "")
    assert first.values["areas"] == {"background": 100, "person": 100, "dog": 0}
    assert first.values["shares"] == {"background": 0.5, "person": 0.5, "dog": 0}
    assert first.values["background"] == "background"
    assert list(first.values["masks"]) == ["background", "person"]
    np.testing.assert_array_equal(decoded(first.values["masks"]["person"]), _predictions().mask(0) == 1)
    picture = Image.open(io.BytesIO(base64.b64decode(first.values["png"])))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), _predictions().mask(0))
    assert first.line == "background 50.0 %  person 50.0 %"
    assert second.line == "dog 100 %"
    assert (refused.name, refused.kind, refused.error) == ("b.jpg", "mask", "is not an image")


def test_the_line_of_many_classes_ends() -> None:
    logits = np.full((1, 7, 1, 7), -9, np.float32)
    logits[0, np.arange(7), 0, np.arange(7)] = 9
    many = MaskPredictions(
        outputs={"logits": logits}, kept=np.array([0]), sizes=np.array([[5, 70]]), classes=tuple("abcdefg")
    )  # fmt: skip
    assert record("x", many, 0).line.endswith(" and 3 more")


def test_tables() -> None:
    found, shown = records(["a.jpg", "b.jpg", "c.jpg"], _predictions()), columns(CLASSES)
    assert csv_header(shown) == "path,height,width,background.share,person.share,dog.share,error\n"
    assert csv_records(shown, found).splitlines()[:2] == ["a.jpg,10,20,0.500000,0.500000,0.000000,", "b.jpg,,,,,,is not an image"]
    data = json_object(shown, found[0])
    assert data["areas"] == {"background": 100, "person": 100, "dog": 0}
    assert data["masks"]["person"]["size"] == [10, 20]
    assert "png" not in data


def test_an_image_whose_size_is_not_known_has_that_of_the_logits() -> None:
    found = MaskPredictions(outputs={"logits": np.zeros((1, 3, 4, 5), np.float32)}, kept=np.array([0]), classes=CLASSES)
    assert found.mask(0).shape == (4, 5)


def test_tensors_of_the_service() -> None:
    found = tensors(_predictions())
    assert [json.loads(text).keys() for text in found["masks"]] == [{"background", "person"}, {"dog"}]  # type: ignore[arg-type]
    np.testing.assert_array_equal(decoded(json.loads(found["masks"][0])["person"]), _predictions().mask(0) == 1)
    assert np.asarray(found["areas"]).tolist() == [[100, 100, 0], [0, 0, 21]]
    assert np.asarray(found["sizes"]).tolist() == [[10, 20], [7, 3]]


@pytest.mark.parametrize(("classes", "expected"), [(("Background", "a"), 0), (("a", "_background_"), 1), (("sky", "road"), None)])
def test_the_background_is_known_by_its_name(classes: tuple[str, ...], expected: int | None) -> None:
    found = MaskPredictions(outputs={"logits": np.zeros((0, 2, 1, 1), np.float32)}, kept=np.zeros(0, np.int64), classes=classes)
    assert found.background == expected
    assert tensors(found)["masks"] == []
