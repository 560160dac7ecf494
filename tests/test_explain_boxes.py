"""Heat maps of one box: which parts of an image its confidence rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_scenes import CLASSES, scene
from headstart import explain, load
from headstart.errors import BackboneError, ParameterError
from headstart.explanation import Explanation, HeatMaps
from headstart.metrics.box_link import PROPOSED
from headstart.metrics.boxes import iou
from headstart.metrics.link import joined
from headstart.run import Run

pytest_plugins = ["boxes_run"]

Cli = Callable[..., Any]
NUMBER = 50

BOXES = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.2, 0.9, 0.8], [0.11, 0.1, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0]], np.float32)
SURE = np.array([[0.7, 0.1], [0.2, 0.9], [0.6, 0.1], [0.0, 0.0]], np.float32)


def proposals(sure: np.ndarray = SURE, boxes: np.ndarray = BOXES) -> np.ndarray:
    return joined([sure[None], boxes[None]])


def test_a_class_is_as_sure_as_its_surest_box() -> None:
    assert PROPOSED.shares(proposals()).tolist() == pytest.approx(np.array([[0.7, 0.9]]))
    assert PROPOSED.box(proposals()[0], 1) == pytest.approx(BOXES[1])
    assert iou(PROPOSED.box(proposals()[0], 0)[None], BOXES)[0, [0, 2]].min() > 0.9
    region = PROPOSED.region(proposals()[0], 1)
    assert region.mean() == pytest.approx(0.3 * 0.6, abs=0.01)
    assert region[80, 140]
    assert not region[80, 100]


def test_a_class_without_a_box_stands_where_it_is_likeliest() -> None:
    faint = SURE * [1, 0.01]
    assert PROPOSED.box(proposals(faint)[0], 1) == pytest.approx(BOXES[1])
    assert np.isfinite(PROPOSED.log_odds(proposals(faint), 1)).all()


def test_log_odds_are_those_of_the_surest_proposal_on_the_box() -> None:
    weaker, moved = SURE.copy(), BOXES.copy()
    weaker[0, 0] = 0.3
    moved[[0, 2]] += 0.5
    versions = np.concatenate([proposals(), proposals(weaker), proposals(boxes=moved)])
    chances = np.array([0.7, 0.6, 1e-6])  # the second proposal overlaps the box, too; what has moved away counts for nothing
    assert PROPOSED.log_odds(versions, 0) == pytest.approx(np.log(chances / (1 - chances)), abs=1e-5)


@pytest.fixture(scope="module")
def opened(scenes_run: Path) -> Run:
    return load(scenes_run)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "scene.png"
    Image.fromarray(scene(NUMBER)[0]).save(path)
    return path


def explained(run: Run, photo: Path, **how: Any) -> Explanation:
    found = next(iter(explain(run, [photo], **how)))
    assert isinstance(found, Explanation)
    return found


def inside(heat: np.ndarray, box: list[float]) -> tuple[float, float]:
    """The mean heat in a box of an image of 128 x 96, and outside."""
    side = len(heat)
    rows, columns = ((np.arange(side) + 0.5) / side * length for length in (96, 128))
    there = ((rows > box[1]) & (rows < box[3]))[:, None] & ((columns > box[0]) & (columns < box[2]))
    return float(heat[there].mean()), float(heat[~there].mean())


@pytest.mark.cards
@pytest.mark.parametrize("target", [None, "disc", "plate"])
def test_the_box_that_is_explained_is_the_surest(opened: Run, photo: Path, target: str | None) -> None:
    found = explained(opened, photo, target=target)
    boxes = opened.predict([photo]).boxes(0, threshold=0.0)
    surest = next(box for box in boxes if target in (None, box["label"]))
    assert found.name == surest["label"]
    assert found.probability == pytest.approx(surest["confidence"], abs=1e-3)
    assert found.line == f"{found.name} confidence {found.probability:.2f}"
    assert found.caption == "Evidence for the outlined box in scene.png"
    assert found.region is not None
    rows, columns = (np.flatnonzero(found.region.any(axis=axis)) / 200 for axis in (1, 0))
    seen = [columns[0] * 128, rows[0] * 96, columns[-1] * 128, rows[-1] * 96]
    assert np.abs(np.array(seen) - surest["box"]).max() < 2
    assert len(found.neighbours) == 5


@pytest.mark.cards
@pytest.mark.parametrize("target", ["disc", "plate"])
def test_the_evidence_for_a_box_lies_mostly_in_it(opened: Run, target: str) -> None:
    images = [scene(number)[0] for number in range(48, 51)]
    boxes = opened.predict(images)
    pairs = []
    for row, found in enumerate(explain(opened, images, target=target, nearest_images=0)):
        assert isinstance(found, Explanation)
        surest = next(box for box in boxes.boxes(row, threshold=0.0) if box["label"] == target)
        pairs.append(inside(found.heat, surest["box"]))
    within, outside = np.mean(pairs, axis=0)
    assert within > 2 * outside


def test_a_link_can_be_about_one_box() -> None:
    given = (0.6, 0.2, 0.9, 0.8)
    link = replace(PROPOSED, given=given)
    assert link.box(proposals()[0], 0) == pytest.approx(given)
    assert link.log_odds(proposals(), 1) == pytest.approx(np.log([0.9 / 0.1]), abs=1e-5)
    assert link.log_odds(proposals(), 0) == pytest.approx(np.log([0.2 / 0.8]), abs=1e-5)  # of its class there, not of its surest box


@pytest.mark.cards
def test_every_box_has_its_own_heat_map(opened: Run) -> None:
    pixels = scene(NUMBER)[0]
    predictions, maps = opened.predict([pixels]), HeatMaps.of(opened)
    boxes = predictions.boxes(0, threshold=0.9)  # one for each thing
    assert len(boxes) == len(scene(NUMBER)[1]) > 1
    prepared, heats = opened.preprocessing(pixels)[None], []
    for number, box in enumerate(boxes):
        label, place = opened.task.located(predictions, 0, number)
        assert CLASSES[label] == box["label"]
        assert np.array(place) * [128, 96, 128, 96] == pytest.approx(box["box"], abs=0.06)
        heats.append(maps.at(place)(prepared, [label])[0])
    for box, heat in zip(boxes, heats, strict=True):
        within = [inside(one, box["box"])[0] for one in heats]
        assert inside(heat, box["box"])[0] == max(within)
    assert np.mean([np.subtract(*inside(heat, box["box"])) for box, heat in zip(boxes, heats, strict=True)]) > 0.1
    assert opened.task.located(predictions, 0, 1000) is None


def test_only_boxes_have_a_heat_map_each(run: Path) -> None:
    with pytest.raises(ParameterError, match="for runs that find boxes"):
        HeatMaps.of(load(run)).at((0, 0, 1, 1))


@pytest.mark.cards
def test_the_command_explains_a_box(cli: Cli, scenes_run: Path, photo: Path) -> None:
    done = cli("explain", scenes_run, photo, "--class", "plate", "--method", "fast")
    assert done.code == 0, done.err
    assert "plate confidence 0." in done.out or "plate confidence 1." in done.out
    assert Path("explained/scene.jpg").is_file()
    done = cli("explain", scenes_run, photo, "--class", "plat")
    assert done.code == 2
    assert "the run has no class 'plat'. Did you mean plate?" in done.err


@pytest.mark.cards
def test_what_does_not_fit_is_refused(opened: Run) -> None:
    with pytest.raises(BackboneError, match="for one output for a whole image"):
        HeatMaps.of(opened, method="cells")
