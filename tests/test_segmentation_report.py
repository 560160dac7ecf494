"""The report of a segmentation, made of statistics and pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from headstart.errors import ParameterError
from headstart.metrics.segmentation import ImageStatistics, image_statistics
from headstart.pixels.pictures import error_png, palette, thumbnail
from headstart.report.page import Report, page, png
from headstart.sections import Card, Gallery, Interval, Matrix, Picture, Span
from headstart.tasks.segmentation import sections
from headstart.tasks.segmentation.evaluation import SegmentationEvaluation
from headstart.tasks.segmentation.predictions import MaskPredictions

CLASSES = ("background", "person", "dog")


def _evaluation(count: int = 30, *, wrong: float = 0.4, classes: tuple[str, ...] = CLASSES) -> SegmentationEvaluation:
    """Image i has its share of wrong pixels growing with i."""
    generator, parts, k = np.random.default_rng(1), [], len(classes)
    for index in range(count):
        truth = np.repeat(np.arange(12) * k // 12, 2).astype(np.uint8)[:, None].repeat(20, axis=1)
        predicted = np.where(generator.random(truth.shape) < wrong * (index + 1) / count, (truth + 1) % k, truth).astype(np.uint8)
        parts.append(image_statistics(truth, predicted, generator.uniform(0.4, 1, truth.shape).astype(np.float32), classes=k))
    return SegmentationEvaluation(classes, ImageStatistics.joined(parts, classes=k))


def test_the_worst_images_come_first_and_the_best_last() -> None:
    found = _evaluation()
    rows = sections.example_rows(found)
    assert len(rows) == sections.WORST + sections.BEST == len(set(rows.tolist()))
    iou = found.image_iou[rows]
    assert (np.diff(iou) >= 0).all()
    assert iou[0] == found.image_iou.min()
    assert iou[-1] == found.image_iou.max()
    few = _evaluation(4)
    assert sorted(sections.example_rows(few).tolist()) == [0, 1, 2, 3]


def test_images_without_a_class_are_not_shown() -> None:
    found = _evaluation(4)
    void = image_statistics(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), classes=3)
    together = SegmentationEvaluation(CLASSES, ImageStatistics.joined([found.statistics, void], classes=3))
    assert 4 not in sections.example_rows(together)


def _report(found: SegmentationEvaluation, pictured: dict[int, Card]) -> Report:
    run = SimpleNamespace(
        test_evaluation=lambda: found,
        manifest=SimpleNamespace(provenance={"images": {"train": {"background": 50, "person": 40, "dog": 3}, "test": {"background": 9}}}),
    )
    record = SimpleNamespace(held_out="30 images that were held out")
    task = sections.task_report(run, record, cards=lambda rows, draw: {row: pictured[row] for row in rows.tolist() if row in pictured})
    return Report(title="people", task=task, sections=task.sections, backbone="lite0", licence="Apache-2.0")


def test_the_page_says_what_the_evaluation_knows() -> None:
    found = _evaluation()
    text = page(_report(found, {}))
    low, high = found.headline[2]
    assert f"The mean IoU of the classes is {found.mean_iou:.4f} on 30 test images" in text
    assert f"{low:.4f} to {high:.4f}" in text
    for index, name in enumerate(CLASSES):
        assert f'<i style="background:#{bytes(palette()[index].tolist()).hex()}"></i>{name}' in text
        assert f"{found.result.iou[index]:.4f}" in text
    assert "Reliability of the confidence" in text
    assert "no picture" not in text


def test_the_gallery_lays_masks_over_the_images() -> None:
    found, data = _evaluation(5), io.BytesIO()
    Image.new("RGB", (8, 6)).save(data, format="JPEG")
    truth, predicted = np.zeros((6, 8), np.uint8), np.ones((6, 8), np.uint8)
    three = tuple(Picture(data=data.getvalue(), mask=error_png(truth, predicted), alt=alt) for alt in ("true", "named", "wrong"))
    pictured = {row: Card(name=f"{row}.jpg", row=row, pictures=three) for row in range(5)}
    report = _report(found, pictured)
    gallery = next(block for section in report.sections for block in section.blocks if isinstance(block, Gallery))
    shown = [card for group in gallery.groups for card in group.cards]
    assert [card.row for card in shown] == sections.example_rows(found).tolist()
    assert shown[0].text.startswith(f"IoU {found.image_iou.min():.2f}, ")
    text = page(report)
    assert text.count("class=over") == 15
    assert "From left to right: the true classes" in text


def _drawn(targets: object) -> tuple[Picture, ...]:
    """The pictures of an image of 300 x 600, whose right half is a person, and whose prediction has it from a quarter on."""
    logits = np.zeros((1, 2, 4, 4), np.float32)
    logits[0, 1] = [[-9, 9, 9, 9]] * 4
    predictions = MaskPredictions(
        outputs={"logits": logits}, kept=np.array([0]), sizes=np.array([[300, 600]]), classes=CLASSES[:2]
    )  # fmt: skip
    run = SimpleNamespace(predict=lambda sources, warn: predictions, preprocessing=SimpleNamespace(levels=None))
    return sections.pictures(run, np.full((300, 600, 3), 77, np.uint8), targets)  # type: ignore[arg-type]


def test_pictures_of_an_image_with_its_mask() -> None:
    truth = (np.arange(600) >= 300).astype(np.uint8)[None].repeat(300, axis=0)
    truth[:30] = 255
    true, named, wrong = _drawn(SimpleNamespace(read=lambda index: truth))
    masks = [np.asarray(Image.open(io.BytesIO(picture.mask or b"")).convert("RGBA")) for picture in (true, named, wrong)]
    assert {mask.shape for mask in masks} == {(120, 240, 4)}
    assert masks[0][60, 200].tolist() == [*palette()[1].tolist(), 150]
    assert masks[0][3, 200, 3] == 0  # void
    assert masks[0][60, 100, 3] == 0  # the background stays clear
    assert masks[1][60, 100].tolist() == [*palette()[1].tolist(), 150]
    assert masks[2][60, 100].tolist() == [220, 30, 30, 200]
    assert masks[2][60, 200, 3] == masks[2][60, 10, 3] == 0
    assert masks[2][3, 100].tolist() == [128, 128, 128, 160]


def test_pictures_of_an_image_whose_mask_is_gone() -> None:
    assert [picture.alt for picture in _drawn(None)] == ["predicted classes"]


def test_counts_of_very_many_pixels_are_in_thousands() -> None:
    found = _evaluation(3)
    assert sections.confusion_matrix(found).total == "pixels"
    statistics = replace(found.statistics, confusion=found.statistics.confusion * 10_000_000)
    large = sections.confusion_matrix(SegmentationEvaluation(CLASSES, statistics))
    assert large.total == "thousand pixels"
    assert large.counts.tolist() == (sections.confusion_matrix(found).counts * 10_000).tolist()
    assert isinstance(large, Matrix)
    assert png(large).startswith(b"\x89PNG")


def test_an_absent_class_has_no_interval() -> None:
    found = _evaluation(3)
    confusion = np.pad(found.statistics.confusion, ((0, 0), (0, 1), (0, 1)))
    statistics = replace(found.statistics, confusion=confusion, boundaries=np.pad(found.statistics.boundaries, ((0, 0), (0, 1), (0, 0))))
    section = sections.classes_section(SegmentationEvaluation((*CLASSES, "cat"), statistics))
    *_, cat = section.blocks[0].rows  # type: ignore[union-attr]
    assert cat[1:5] == ("-", "", "-", "0 %")
    assert isinstance(section.blocks[0].rows[0][2], Interval)  # type: ignore[union-attr]


def test_thumbnails_of_classes_are_never_smoothed() -> None:
    classes = np.array([[0, 0, 7, 7]] * 4, np.uint8)
    assert set(thumbnail(classes, (3, 3), smooth=False).ravel().tolist()) == {0, 7}
    assert thumbnail(classes, (2, 2), smooth=False).tolist() == [[0, 7], [0, 7]]
    assert thumbnail(np.full((40, 20, 3), 9, np.uint8), (4, 2)).tolist() == [[[9, 9, 9]] * 2] * 4


def test_a_key_needs_a_colour() -> None:
    assert Span("a", "key", colour="#ff8800").colour == "#ff8800"
    for kind, colour in (("key", ""), ("key", "red"), ("plain", "#ff8800"), ("key", "#ff8800;x")):
        with pytest.raises(ParameterError, match="has a colour such as #ff8800"):
            Span("a", kind, colour=colour)  # type: ignore[arg-type]
