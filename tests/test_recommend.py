"""`headstart recommend`: predicted accuracy, cost and licence of each backbone, within limits, from training images alone."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import FitSettings, load_backbone
from headstart.backbones import Backbone, find
from headstart.backbones.efficientnet_lite import expected_means
from headstart.backbones.loading import _lite_tensors
from headstart.backbones.loading import expected_means as means_of
from headstart.backbones.weights import embedded_weights
from headstart.features import BackboneExtractor
from headstart.pipeline import fitting, searching
from headstart.pipeline.forecast import Forecast
from headstart.pipeline.recommending import LIMITS, recommend
from headstart.progress import Listener
from headstart.selection import tried
from headstart.selection.proposals import Proposal
from headstart.settings.wishes import Wishes


@pytest.fixture(autouse=True)
def candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching.Searching, "_candidates", lambda self: iter((Proposal("lite1@48", 1.0),)))


def test_the_command_says_what_to_type_next(cli: Callable[..., SimpleNamespace], pictures: Path, tmp_path: Path) -> None:
    done = cli("recommend", pictures, "--backbone", "lite0@64", "--json", tmp_path / "found.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text())
    first, second = found["rows"][:2]
    assert {first["backbone"], second["backbone"]} == {"lite0@64", "lite1@48"}
    assert first["outcome"] == "recommended"
    assert first["accuracy"] >= second["accuracy"]
    for row in (first, second):
        low, high = row["interval"]
        assert low <= row["accuracy"] <= high
        assert 0 < row["milliseconds"] < 10_000
        assert row["fit_seconds"] > 0
        assert row["licence"] == "apache-2.0"
    assert (found["images"], found["classes"]) == (48, 3), "those that `fit` would train on"
    typed = shlex.split(done.out.strip().splitlines()[-1])
    assert typed == ["headstart", "fit", str(pictures), "--backbone", first["backbone"]]
    assert all(row["backbone"] in done.out for row in found["rows"])


def test_all_are_tried_even_where_the_first_is_never_wrong(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried, "ENOUGH", 1)
    monkeypatch.setattr(tried, "UNBEATABLE", 48)
    rows = recommend(pictures, settings=FitSettings(backbone="lite0@64")).rows
    assert {row.backbone for row in rows if row.outcome in ("possible", "recommended")} == {"lite0@64", "lite1@48"}


def test_images_that_a_fit_would_test_on_are_not_looked_at(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = fitting.fit(pictures, settings=FitSettings(backbone="lite0@64", head="centroid")).table
    test = {str(tested.dataset.inputs[row]) for row in tested.test}
    seen: set[str] = set()
    call = BackboneExtractor.__call__

    def spied(self: BackboneExtractor, images: list[Path], **rest: object) -> object:
        seen.update(map(str, images))
        return call(self, images, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(BackboneExtractor, "__call__", spied)
    recommend(pictures, settings=FitSettings(backbone="lite0@64"))
    assert seen
    assert not seen & test


@pytest.mark.parametrize("own_test", [False, True])
def test_the_predicted_time_is_that_of_training_and_test_images(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_test: bool
) -> None:
    settings = FitSettings(backbone="lite0@64", head="centroid")
    if own_test:
        for kind, name in enumerate(("rings", "stripes", "checks")):
            (tmp_path / "test" / name).mkdir(parents=True)
            Image.fromarray(draw(kind, 900 + kind)).save(tmp_path / "test" / name / "new.png")
        settings = replace(settings, test=tmp_path / "test")
    fitted = fitting.fit(pictures, settings=settings).table
    asked: list[tuple[int, int]] = []

    def predicted(self: Forecast, prepared: object, *, train: int, test: int) -> float:
        asked.append((train, test))
        return 1.0

    monkeypatch.setattr(Forecast, "fit", predicted)
    recommend(pictures, settings=settings)
    assert set(asked) == {(len(fitted.train), len(fitted.test))}


def test_what_is_beyond_the_limits_is_said(cli: Callable[..., SimpleNamespace], pictures: Path) -> None:
    done = cli("recommend", pictures, "--backbone", "lite0@64", "--size", "1MB", "--deploy", "phone")
    assert done.code == 0
    assert "beyond the limits: 13 MB, more than 1" in done.out
    assert "No backbone that is here satisfies the limits; the smallest is lite0@64: 13 MB, " in done.out.splitlines()[-1]


@pytest.mark.parametrize("place", ["phone", "laptop"])
def test_what_must_be_downloaded_is_listed_with_the_command(pictures: Path, place: str) -> None:
    rows = recommend(pictures, settings=FitSettings(backbone="lite0@64"), wishes=Wishes(deploy=place)).rows
    downloads = [row for row in rows if row.outcome == "download"]
    assert downloads
    megabytes, operations = LIMITS.get(place, (np.inf, np.inf))
    for row in downloads:
        record = find(row.backbone)
        assert f"headstart fetch {row.backbone}" in row.reason
        assert not record.embedded
        assert row.megabytes <= megabytes
        assert (record.gflops or 0) <= operations
        assert np.isnan(row.accuracy), "what was not measured is not predicted"


@pytest.mark.parametrize(
    ("option", "typed"), [("--size", "20 apples"), ("--latency", "0ms"), ("--deploy", "fridge"), ("--budget", "soon"), ("--latency", "-3")]
)
def test_what_is_no_measure(cli: Callable[..., SimpleNamespace], pictures: Path, option: str, typed: str) -> None:
    refused = cli("recommend", pictures, option, typed)
    assert refused.code == 2
    assert option in refused.err


@pytest.mark.parametrize(("typed", "expected"), [("20ms", 20.0), ("0.5 s", 500.0), ("7", 7.0)])
def test_measures(typed: str, expected: float) -> None:
    from headstart.settings.field import options

    assert options(Wishes)["latency"].parse(typed) == expected  # type: ignore[misc]


def test_expected_means_are_those_of_normal_values_after_relu6() -> None:
    record = find("lite0")
    variant, tensors = _lite_tensors(record, embedded_weights(record))
    entries = [value for value in tensors.values() if value.shape == (1280,)]
    gain, offset = entries[0].astype(float), entries[1].astype(float)
    drawn = np.random.default_rng(0).normal(size=(20_000, 1)) * np.abs(gain[:64]) + offset[:64]
    np.testing.assert_allclose(expected_means(variant, tensors)[:64], np.clip(drawn, 0, 6).mean(axis=0), atol=0.03)


def test_noise_is_farther_from_the_pre_training_than_a_photograph(backbone: Backbone) -> None:
    photographs = pytest.importorskip("sklearn.datasets").load_sample_images().images
    crops = [np.ascontiguousarray(image[y : y + 224, x : x + 224]) for image in photographs for y in (0, 200) for x in (0, 200, 400)]
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8))
    expected, last = means_of(backbone), backbone.last
    assert expected is not None
    far = [
        np.abs(BackboneExtractor(backbone)(images).values[:, last.start : last.stop].mean(axis=0) - expected).sum() / expected.sum()
        for images in (crops, noise)
    ]
    assert far[0] < 1.0 < far[1]


def test_a_network_that_does_not_tell_has_no_distance(cache: Path) -> None:
    assert means_of(load_backbone("lite0+lite1@64", cache=cache)) is None


def test_a_short_budget_still_recommends_where_it_begins(pictures: Path) -> None:
    found = recommend(pictures, settings=FitSettings(backbone="lite0@64"), wishes=Wishes(budget=0.01), listener=Listener())
    assert found.rows[0].backbone == "lite0@64"
    assert found.rows[1].outcome == "skipped"
    assert "it would take" in found.rows[1].reason
