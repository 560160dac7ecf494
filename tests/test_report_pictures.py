"""The pictures beside the report: the confusion matrix at any number of classes, and the curves of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.errors import ParameterError
from headstart.report import draw_png
from headstart.report.chart import shades
from headstart.report.training import training_charts
from headstart.sections import Charts
from headstart.tasks.classification.evaluation import evaluate
from headstart.tasks.classification.sections import confusion_matrix
from reports import evaluation, history

# training_curves.png


@pytest.mark.parametrize("length", [1, 2, 12, 300])
def test_the_curves_are_drawn_where_the_numbers_are(length: int, tmp_path: Path) -> None:
    draw_png(Charts(training_charts(history(length, best=1))), tmp_path / "curves.png", heading="Training")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.size == (1600, 597)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    below = pixels[176:515]  # without the keys
    blue, orange = below[:, :, 2] > below[:, :, 0] + 60, below[:, :, 0] > below[:, :, 2] + 60
    for half in (slice(0, 800), slice(800, 1600)):
        assert blue[:, half].sum() > 40
        assert orange[:, half].sum() > 40
    if length == 12:
        rows = np.arange(len(below))[:, None]
        middle = slice(300, 700), slice(1100, 1500)
        height = [[(rows * colour[:, half]).sum() / colour[:, half].sum() for half in middle] for colour in (blue, orange)]
        assert height[0][0] < height[1][0]  # the accuracy of validation is the higher one, its loss the lower one
        assert height[0][1] > height[1][1]


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="There is no chart to draw"):
        draw_png(Charts(()), tmp_path / "curves.png")


# confusion_matrix.png


@pytest.mark.parametrize("count", [1, 2, 10, 40, 100, 151, 1000])
def test_the_picture_can_be_drawn_at_any_number_of_classes(count: int, tmp_path: Path) -> None:
    classes = tuple(f"class {index} 犬\udcff" for index in range(count))
    draw_png(confusion_matrix(evaluation(classes, n=max(60, count))), tmp_path / "confusion.png", heading="test")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
        assert 200 < min(image.size) <= max(image.size) < 2600


def test_the_picture_shows_right_cells_in_blue_and_wrong_ones_in_orange(tmp_path: Path) -> None:
    draw_png(confusion_matrix(evaluation(("cats", "dogs"), n=40, wrong=20)), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[:, :, 2] > pixels[:, :, 0] + 60).sum()
    orange = (pixels[:, :, 0] > pixels[:, :, 2] + 60).sum()
    cell = 108 * 108
    assert 0.7 * 2 * cell < blue < 2.1 * cell
    assert 0.7 * 2 * cell < orange < 2.1 * cell


def test_an_empty_cell_can_be_told_from_the_paper(tmp_path: Path) -> None:
    draw_png(confusion_matrix(evaluation(tuple("abcdefghij"), wrong=0)), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24) or []}
    cell = 88 * 88
    assert colours[(244, 246, 248)] == 90 * cell
    assert max(colours, key=lambda colour: colours[colour]) in {(255, 255, 255), (244, 246, 248)}
    assert colours[(255, 255, 255)] > 10 * cell


def test_shades_grow_with_the_share_of_the_row_and_are_none_where_nothing_is() -> None:
    found = shades(np.array([[90, 10, 0], [0, 50, 50], [0, 0, 0]]))
    assert (found[2] == 0).all()
    assert found[0, 2] == found[1, 0] == 0
    assert found[0, 0] > found[1, 1] > 0
    assert found[1, 2] > found[0, 1] > 0.3
    assert found.max() <= 1


def test_a_confusion_matrix_of_several_labels_is_refused() -> None:
    labels = evaluate(np.array([[0.9, 0.1]]), np.array([[True, False]]), ("a", "b"))
    with pytest.raises(ParameterError, match="multi-label data have no confusion matrix: an image has no single class"):
        confusion_matrix(labels)


def test_pillows_own_font_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart import text

    draw_png(confusion_matrix(evaluation(("cats", "dogs"))), tmp_path / "system.png")
    monkeypatch.setattr(text, "SYSTEM_FONTS", ())
    text.font_at.cache_clear()
    try:
        draw_png(confusion_matrix(evaluation(("cats", "dogs"))), tmp_path / "own.png")
        assert text.font_at(12).getname()[0] == "Aileron"
    finally:
        text.font_at.cache_clear()
    inked = []
    for name in ("system", "own"):
        with Image.open(tmp_path / f"{name}.png") as image:
            inked.append((np.asarray(image.convert("L")) < 90).sum())
    assert inked[1] > 0.6 * inked[0]  # as much text
