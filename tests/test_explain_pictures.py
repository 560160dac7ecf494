"""What `headstart explain` shows: overlays, pictures, the nearest training images, and the command itself."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import explain, load
from headstart.backbones import Layer
from headstart.errors import ImageError, ParameterError, RunError
from headstart.explanation import Explanation, Neighbour, explanation_picture, nearest_training_images, overlay
from headstart.explanation.explanations import colours
from headstart.run import Run
from headstart.run.manifest import BackboneEntry

# Pictures --------------------------------------------------------------------------------------------------------------------------


def test_colours_become_lighter_with_the_heat() -> None:
    light = colours(np.linspace(0, 1, 50, dtype=np.float32)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all()


def test_the_overlay_shows_the_heat_where_it_is() -> None:
    pixels = np.full((60, 90, 3), 128, np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[:10, :15] = 1
    laid = np.asarray(overlay(pixels, heat)).astype(int)
    assert laid.shape == pixels.shape
    assert laid[5, 5, 0] > 200 > 100 > laid[55, 85, 0]
    assert laid[55, 5, 0] < 100
    with pytest.raises(ParameterError, match=r"An overlay takes uint8 \(H, W, 3\)"):
        overlay(pixels[:, :, 0], heat)


def test_the_picture_has_the_image_its_heat_and_the_neighbours(tmp_path: Path) -> None:
    Image.new("RGB", (80, 50), (200, 200, 200)).save(tmp_path / "grey.png")
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    heat = np.zeros((56, 56), np.float32)
    neighbours = [
        Neighbour(row=0, path=tmp_path / "grey.png", label="cat", similarity=0.91, same=True),
        Neighbour(row=1, path=tmp_path / "gone.png", label="dog", similarity=0.5, same=False),
    ]
    without = explanation_picture(pixels, heat, title="cat 99 %", caption="cat.jpg")
    picture = explanation_picture(pixels, heat, title="a very long name of a class " * 9, caption="", neighbours=neighbours)
    assert picture.height > without.height
    drawn = np.asarray(picture)
    assert any(np.array_equal(drawn[row : row + 400, 24:424], pixels) for row in range(90, 120))
    assert (drawn[:, -20:] == 255).all()  # nothing runs over the edge
    assert (drawn == 200).all(axis=2).sum() > 10_000  # the neighbour


# Training images -------------------------------------------------------------------------------------------------------------------


class Known:
    """A run that knows no more than the features of its training images, as one without a novelty score."""

    reliability = None
    manifest = SimpleNamespace(backbone=BackboneEntry(name="small", layers=(Layer("last", 5, 45),)))

    def __init__(self, features: np.ndarray) -> None:
        self.reference = {"features": features}


def test_without_a_novelty_score_the_nearest_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(0)
    features = random.random((5000, 40)).astype(np.float16)
    run: Any = Known(features)
    asked = random.random((7, 45)).astype(np.float32)
    distance, order = NearestNeighbors(metric="cosine").fit(features.astype(np.float64)).kneighbors(asked[:, 5:], 6)
    found, closeness = nearest_training_images(run, asked, 6)
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(closeness, 1 - distance, atol=1e-5)
    assert nearest_training_images(run, np.zeros((1, 45), np.float32), 9000)[0].shape == (1, 5000)


def test_predict_and_explain_name_the_same_training_images(run: Path, pictures: Path) -> None:
    opened = load(run)
    images = sorted(pictures.rglob("*.png"))[::7]
    judged = opened.predict(images, neighbours=4).judgement
    assert judged is not None
    found = [one for one in explain(opened, images, nearest_images=4, method="fast") if isinstance(one, Explanation)]
    assert [[near.row for near in one.neighbours] for one in found] == np.asarray(judged.nearest).tolist()
    for one in found:
        assert all(-1 <= near.similarity <= 1.0001 for near in one.neighbours)
        for near in one.neighbours:
            assert near.path.parent.name == near.label
            assert near.same == (near.label == one.name)
    seen = {name: row for row, name in enumerate(opened.training_names)}
    (itself,) = explain(run, [run / opened.training_names[3]], nearest_images=1, method="fast")
    assert isinstance(itself, Explanation)
    assert (itself.neighbours[0].row, itself.neighbours[0].similarity) == (seen[opened.training_names[3]], pytest.approx(1, abs=2e-3))


# The command -----------------------------------------------------------------------------------------------------------------------


def test_explain_writes_a_picture_and_names_the_nearest(cli: Callable[..., Any], run: Path, photo: Path) -> None:
    done = cli("explain", run, photo, "--nearest", "3")
    assert (done.code, done.err) == (0, "")
    first, *nearest = done.out.splitlines()
    assert re.fullmatch(rf"{re.escape(str(photo))}  rings [01]\.\d{{4}}  explained/rings 00\.jpg", first)
    assert len(nearest) == 3
    known = {str((run / name).resolve()) for name in load(run).training_names}
    for line in nearest:
        found = re.fullmatch(r"  similarity ([01]\.\d\d)  (\w+)  (.+)", line)
        assert found
        assert str(Path(found[3]).resolve()) in known
        assert Path(found[3]).parent.name == found[2]
    if str(photo.resolve()) in known:
        assert nearest[0].startswith("  similarity 1.00  rings")
    with Image.open("explained/rings 00.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.width > 800
    assert cli("explain", run, photo, "-q", "--out", "elsewhere").out.count("\n") == 1
    assert Path("elsewhere/rings 00.jpg").is_file()


def test_explain_another_class_and_images_of_the_same_name(cli: Callable[..., Any], run: Path, photo: Path, tmp_path: Path) -> None:
    copy = tmp_path / photo.name
    shutil.copy(photo, copy)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    done = cli("explain", run, photo, copy, tmp_path / "bad.jpg", "--class", "stripes", "--nearest", "0")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) == 2
    assert all("  stripes 0." in line for line in lines)
    assert {path.name for path in Path("explained").iterdir()} == {"rings 00.jpg", "rings 00-2.jpg"}
    assert "bad.jpg: not an image" in done.err
    assert cli("explain", run, tmp_path / "bad.jpg").code == 2


def test_explain_says_what_is_wrong(cli: Callable[..., Any], run: Path, photo: Path) -> None:
    done = cli("explain", run, photo, "--class", "ring")
    assert done.code == 2
    assert "the run has no class 'ring'. Did you mean rings? It has checks, rings and stripes." in done.err
    assert "method must be one of auto, fast, cells, occlusion" in cli("explain", run, photo, "--method", "rise").err
    assert "nearest must be a whole number of at least 0, got -1" in cli("explain", run, photo, "--nearest", "-1").err
    Path("file").write_text("")
    assert "--out file: is a file. Give the name of a folder." in cli("explain", run, photo, "--out", "file").err
    assert "it comes first. Type: headstart explain" in cli("explain", photo, run).err


def test_in_python_images_are_explained_one_after_the_other(run: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    first, bad, second = explain(run, [photo, tmp_path / "bad.jpg", photo.read_bytes()], target="checks", method="fast", nearest_images=0)
    assert isinstance(first, Explanation)
    assert isinstance(second, Explanation)
    assert isinstance(bad, ImageError)
    assert (first.name, first.best[0], first.neighbours, second.position) == ("checks", "rings", (), 2)
    np.testing.assert_array_equal(first.heat, second.heat)
    assert first.picture().size == second.picture().size
    with pytest.raises(ParameterError, match=r"the run has no class 'check'\. Did you mean checks"):
        explain(run, [photo], target="check")
    with pytest.raises(ParameterError, match="nearest_images must be 0 or more, got -1"):
        explain(run, [photo], nearest_images=-1)


def test_a_run_without_its_training_images(run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "training_names", ())
    with pytest.raises(RunError, match=r"has \d+ training images, and the names of 0\. Copy the run again"):
        explain(run, [photo])
    assert isinstance(next(explain(run, [photo], nearest_images=0, method="fast")), Explanation)
