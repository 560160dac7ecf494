"""Why a region has its class: log-odds over regions against closed forms, and heat maps of a run that learned masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_shapes import drawn
from headstart import explain
from headstart.errors import BackboneError, ParameterError
from headstart.explanation import Explanation, HeatMaps
from headstart.metrics.link import LIKELIEST, PLACES, SIGMOID, SOFTMAX
from headstart.tasks import ClassOutputs

pytest_plugins = ["masks_run"]

Cli = Callable[..., Any]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "shapes.png"
    Image.fromarray(drawn(60)[0]).save(file)
    return file


def explained(run: Path, photo: Path, **options: Any) -> Explanation:
    (found,) = explain(run, [photo], **options)
    assert isinstance(found, Explanation)
    return found


def test_log_odds_are_those_of_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3))
    chances = SOFTMAX.probabilities(logits)[:, 1]
    assert SOFTMAX.log_odds(logits, 1) == pytest.approx(np.log(chances / (1 - chances)))
    assert np.array_equal(SIGMOID.log_odds(logits, 1), logits[:, 1])


def test_log_odds_of_a_region_are_their_mean_over_what_the_first_says() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3, 6, 7))
    region = logits[0].argmax(axis=0) == 2
    assert np.array_equal(PLACES.region(logits[0], 2), region)
    chances = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, 2][:, region]
    assert PLACES.log_odds(logits, 2) == pytest.approx(np.log(chances / (1 - chances)).mean(axis=1))
    assert PLACES.shares(logits)[0, 2] == region.mean()
    assert PLACES.shares(logits).sum(axis=1) == pytest.approx(np.ones(5))


def test_a_class_that_is_nowhere_stands_where_it_is_likeliest() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 20, 20))
    logits[1] -= 50
    region = PLACES.region(logits, 1)
    assert region.mean() == pytest.approx(LIKELIEST, abs=0.01)
    odds = logits[1] - logits[0]
    assert odds[region].min() >= odds[~region].max()


def test_the_background_is_explained_only_alone() -> None:
    outputs = ClassOutputs(classes=("background", "cat", "dog"), link=PLACES, background=0)
    shares = np.array([[0.9, 0.02, 0.08], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4]])
    assert outputs.strongest(shares).tolist() == [2, 0, 1]
    assert replace(outputs, background=None).strongest(shares).tolist() == [0, 0, 1]


@pytest.mark.cards
def test_the_evidence_for_a_region_lies_in_it(shapes_run: Path, photo: Path) -> None:
    found = explained(shapes_run, photo, target="disc")
    assert found.name == "disc"
    assert found.region is not None
    assert found.probability == found.region.mean()
    truth = np.asarray(Image.fromarray((drawn(60)[1] == 1).astype(np.uint8) * 255).resize((64, 64))) > 127
    assert found.heat[truth].mean() > 2 * found.heat[~truth].mean()
    other = explained(shapes_run, photo, target="bar")
    right = np.arange(64) >= 44
    assert other.heat[:, right].mean() > other.heat[:, ~right].mean()
    assert [neighbour.label for neighbour in found.neighbours] == ["ground, disc, bar"] * 5
    assert all(neighbour.same for neighbour in found.neighbours)


@pytest.mark.cards
def test_the_largest_class_is_explained_where_none_is_named(shapes_run: Path, photo: Path) -> None:
    found = explained(shapes_run, photo, method="fast", nearest_images=0)
    assert found.name == found.best[0] == "ground"
    assert found.line == f"ground {100 * found.probability:.1f} % of the pixels"
    assert found.caption == "Evidence for the outlined region in shapes.png"
    assert replace(found, probability=0.0).caption.startswith("No pixel of shapes.png has this class")


@pytest.mark.cards
def test_the_region_is_outlined(shapes_run: Path, photo: Path) -> None:
    found = explained(shapes_run, photo, target="disc", nearest_images=0)
    outlined, plain = (np.asarray(one.picture()).astype(int) for one in (found, replace(found, region=np.zeros((16, 16), np.bool_))))
    changed = np.abs(outlined - plain).max(axis=2) > 40
    assert 500 < changed.sum() < 20_000
    assert (outlined[changed] == 255).all(axis=1).mean() > 0.3


@pytest.mark.cards
def test_the_command_explains_regions(cli: Cli, shapes_run: Path, photo: Path) -> None:
    done = cli("explain", shapes_run, photo, "--class", "disc", "--nearest", "0")
    assert done.code == 0, done.err
    assert done.out.split()[1] == "disc"
    assert done.out.strip().endswith("% of the pixels  explained/shapes.jpg")
    assert Path("explained/shapes.jpg").is_file()
    for wrong, said in (
        (("--class", "dics"), "the run has no class 'dics'. Did you mean disc? It has ground, disc and bar"),
        (("--method", "cells"), "this run has one for each place. Use 'occlusion'"),
    ):
        done = cli("explain", shapes_run, photo, *wrong)
        assert done.code == 2
        assert said in done.err


@pytest.mark.cards
def test_what_does_not_fit_is_refused(shapes_run: Path) -> None:
    from headstart import load

    run = load(shapes_run)
    with pytest.raises(BackboneError, match="for one output for a whole image"):
        HeatMaps.of(run, method="cells")
    with pytest.raises(ParameterError, match="has not learned a column 'age'"):
        HeatMaps.of(run, column="age")
    assert HeatMaps.of(run, method="fast").method == "occlusion"
