"""Anomaly detection from images to run folder, predictions and report; its targets, its choice of a detector, its threshold."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.stats import binom
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from headstart import FitSettings, evaluate_run, explain, fit, load
from headstart.backbones.stage_maps import MapLayer
from headstart.data import Dataset, Defects, read_annotations, read_defects
from headstart.errors import DataError, ParameterError, RunError
from headstart.explanation import Explanation
from headstart.metrics.anomaly import roc_auc_interval
from headstart.progress import Listener
from headstart.reliability.false_alarms import FalseAlarms
from headstart.run import Run
from headstart.tasks import recognise, task_for
from headstart.tasks.anomaly.evaluation import AnomalyEvaluation, PixelScores, evaluate
from headstart.tasks.anomaly.learning import AnomalyModel, choose_maps, suited
from headstart.tasks.anomaly.predictions import AnomalyPredictions, edges, records
from headstart.tasks.anomaly.synthetic import cut_paste, mirrored, views
from headstart.tasks.anomaly.task import AnomalyDetection
from sealed import seal

pytestmark = pytest.mark.cards
RANDOM = np.random.default_rng(0)
SIDE = 96


def tile(seed: int, *, defect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of a tile with a ring on it, and the mask of a dark scratch across it where it has one."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    ring = np.abs(np.hypot(y - 48 - random.uniform(-2, 2), x - 48 - random.uniform(-2, 2)) - 25) < 4
    picture = np.where(ring[..., None], (180, 120, 60), (90, 140, 170)) + random.normal(0, 6, (SIDE, SIDE, 3))
    mask = np.zeros((SIDE, SIDE), np.bool_)
    if defect:
        top, left = random.integers(10, 60, 2)
        mask[top : top + 12, left : left + 22] = True
        picture[mask] = random.normal(30, 25, (int(mask.sum()), 3))
    return np.clip(picture, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVTec's layout: 24 good tiles to learn from, 6 good and 8 with a scratch to test on, masks of all scratches but one."""
    root = tmp_path_factory.mktemp("tiles")
    for part, kind, count in (("train", "good", 24), ("test", "good", 6), ("test", "scratched", 8)):
        (root / part / kind).mkdir(parents=True)
        (root / "ground_truth" / "scratched").mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture, mask = tile(100 * (part == "test") + 1000 * (kind != "good") + index, defect=kind != "good")
            Image.fromarray(picture).save(root / part / kind / f"{index:03d}.png")
            if kind != "good" and index:
                Image.fromarray((mask * 255).astype(np.uint8)).save(root / "ground_truth" / kind / f"{index:03d}_mask.png")
    return root


@pytest.fixture(scope="module")
def fitted(tiles: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    out = tmp_path_factory.mktemp("runs") / "tiles"
    fit(tiles, out=out, settings=FitSettings(backbone="lite0@96", cache=cache))
    return load(out)


def test_the_layout_of_mvtec_is_recognised(tiles: Path) -> None:
    task, reason = recognise(read_annotations(tiles))
    assert task.name == "anomaly"
    assert reason == "good images to learn from, and images with defects to test on"


def test_defects_are_read(tiles: Path) -> None:
    found = read_annotations(tiles)
    targets = read_defects(found)
    assert targets.counts() == {"good": 30, "anomalous": 8}
    assert isinstance(task_for(targets), AnomalyDetection)
    bad = np.flatnonzero(targets.anomalous)
    assert [targets.has_mask(int(row)) for row in bad] == [False, *[True] * 7]
    assert targets.has_mask(0)
    defective, void = targets.defective(int(bad[3]))
    assert np.array_equal(defective, tile(1103, defect=True)[1])
    assert not void.any()
    assert targets.take(bad[:2]).names(1) == ("scratched",)
    assert targets.cells(int(bad[3]))["label"] == "scratched"
    assert targets.cells(int(bad[3]))["mask"].endswith("003_mask.png")


def test_scores_tell_tiles_apart(fitted: Run) -> None:
    found = fitted.test_evaluation()
    assert isinstance(found, AnomalyEvaluation)
    assert found.roc_auc > 0.95
    assert found.summary().startswith(f"test AUROC {found.roc_auc:.4f} [")
    assert found.summary().endswith("on 14 images")
    assert found.pixels is not None
    assert found.pixels.images == 13
    assert found.pixels.defects == 7
    assert found.pixels.roc_auc > 0.95
    assert found.pixels.aupro > 0.7
    assert found.false_alarms <= 2


def test_the_graph_gives_what_the_fit_measured(fitted: Run, tiles: Path) -> None:
    stored = fitted.tested
    predictions = fitted.predict([fitted.path / name for name in fitted.test_names])
    assert np.allclose(predictions.outputs["map"], stored["map"], rtol=2e-3)  # whose maps were float16
    assert np.allclose(predictions.scores, predictions.outputs["map"].max(axis=(1, 2)))
    again, _ = fitted.evaluate(fitted.read(tiles).take(np.arange(24, 38)))
    assert again.scores["roc_auc"] == pytest.approx(fitted.test_evaluation().scores["roc_auc"])
    assert again.pixels.roc_auc == pytest.approx(fitted.test_evaluation().pixels.roc_auc, abs=1e-3)
    assert evaluate_run(fitted.path, tiles, part="test").evaluation.images == 14


def test_the_saved_detector_is_read_again(fitted: Run) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(fitted.path / "head.safetensors", "np") as file:
        settings = json.loads(file.metadata()["head"])
    again = AnomalyModel.from_state(settings, load_file(fitted.path / "head.safetensors"))
    assert again.threshold == fitted.manifest.state["threshold"]
    assert again.described() == dict(fitted.manifest.state)
    with pytest.raises(RunError, match=r"saved detector is 'other'; this version reads patchcore, padim"):
        AnomalyModel.from_state({**settings, "detector": "other"}, {})
    with pytest.raises(RunError, match="The saved detector is"):
        AnomalyModel.from_state({key: value for key, value in settings.items() if key != "comparison"}, {})


def test_records_show_where(fitted: Run, tiles: Path) -> None:
    paths = sorted((tiles / "test" / "scratched").iterdir())
    predictions = fitted.predict(paths)
    for index, record in enumerate(fitted.records(paths, predictions)):
        assert record.kind == "score"
        assert record.values["label"] == ("anomalous" if record.values["score"] > record.values["threshold"] else "good")
        assert (record.values["height"], record.values["width"]) == (SIDE, SIDE)
        if record.values["regions"]:
            region = record.values["regions"][0]
            assert region["score"] == pytest.approx(record.values["score"], rel=0.05)
            y, x = np.argwhere(tile(1100 + index, defect=True)[1]).mean(axis=0)
            outline = np.array(region["outline"])
            assert outline[:, 0].min() - 12 < x < outline[:, 0].max() + 12
            assert outline[:, 1].min() - 12 < y < outline[:, 1].max() + 12
    assert any(record.values["regions"] for record in fitted.records(paths, predictions))


def test_the_command_line_says_it_in_its_columns(cli: Callable[..., SimpleNamespace], fitted: Run, tiles: Path) -> None:
    done = cli("predict", fitted.path, tiles / "test" / "good", tiles / "test" / "scratched", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert list(rows[0])[:3] == ["path", "label", "score"]
    assert {row["label"] for row in rows} == {"good", "anomalous"}
    bad = [float(row["score"]) for row in rows if "scratched" in row["path"]]
    assert min(bad) > np.median([float(row["score"]) for row in rows if "good" in row["path"]])
    done = cli("predict", fitted.path, tiles / "test" / "scratched", "--out", "heat", "--overlay")
    assert done.code == 0
    assert len(list(Path("heat").glob("*.png"))) == 8
    with Image.open(Path("heat") / "000_overlay.jpg") as picture:
        assert picture.size == (SIDE, SIDE)


def test_the_report_shows_heat_maps_and_the_guarantee(fitted: Run) -> None:
    text = (fitted.path / "report.html").read_text()
    assert "Threshold" in text
    assert "Good images, the highest score first" in text
    card = (fitted.path / "MODEL_CARD.md").read_text()
    assert "good images like these are above it" in card.replace("\n", " ")


def test_an_explanation_is_the_map_itself(cli: Callable[..., SimpleNamespace], fitted: Run, tiles: Path) -> None:
    path = tiles / "test" / "scratched" / "003.png"
    (found,) = explain(fitted, [path])
    assert isinstance(found, Explanation)
    expected = fitted.predict([path])
    low, high = 0.5 * expected.threshold, 1.5 * expected.threshold
    assert np.allclose(found.heat, np.clip((expected.outputs["map"][0] - low) / (high - low), 0, 1), atol=1e-5)
    assert found.name == expected.labels[0]
    done = cli("explain", fitted.path, path, tiles / "missing.png", "--out", "why")
    assert done.out == f"{path}  {expected.line(0)}  why/003.jpg\n"
    assert "missing.png: cannot be read" in done.err
    assert "Heat maps are for runs whose outputs are classes" in cli("explain", fitted.path, path, "--class", "good").err


def test_the_list_of_a_run_has_labels_and_masks(fitted: Run) -> None:
    found = evaluate_run(fitted, fitted.path / "split.csv", part="test")
    again, first = found.evaluation, fitted.test_evaluation()
    assert isinstance(again, AnomalyEvaluation)
    assert isinstance(first, AnomalyEvaluation)
    assert (again.good, again.defects) == (6, 8)
    assert again.pixels is not None
    assert first.pixels is not None
    assert again.pixels.roc_auc == pytest.approx(first.pixels.roc_auc, abs=2e-3)
    assert (again.pixels.images, again.pixels.defects) == (first.pixels.images, first.pixels.defects)


def test_runs_are_compared(cli: Callable[..., SimpleNamespace], fitted: Run, tmp_path: Path) -> None:
    other = shutil.copytree(fitted.path, tmp_path / "other")
    arrays = load_file(other / "evaluation.safetensors")
    arrays["score"] = np.random.default_rng(1).normal(size=14) - arrays["targets"]
    save_file(arrays, other / "evaluation.safetensors")
    seal(other, json.loads((other / "manifest.json").read_text("utf-8")))
    done = cli("compare", fitted.path, other)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "14 images that both runs were tested on"
    assert " ".join(lines[1].split()) == "run backbone AUROC 95 % interval false alarms defects found pixel AUROC AUPRO"
    assert lines[-1].startswith("tiles is better than other: AUROC +0.")
    assert "right decisions +" in lines[-1]
    arrays["score"][0] = np.nan
    save_file(arrays, other / "evaluation.safetensors")
    seal(other, json.loads((other / "manifest.json").read_text("utf-8")))
    done = cli("compare", fitted.path, other)
    assert done.code == 2
    assert "damaged: scores (14,) of 14 images" in done.err


def test_runs_without_test_images_are_not_compared(cli: Callable[..., SimpleNamespace], flat: Path, cache: Path) -> None:
    fit(flat, out="one", settings=FitSettings(task="anomaly", backbone="lite0@96", cache=cache))
    shutil.copytree("one", "two")
    done = cli("compare", "one", "two")
    assert done.code == 2
    assert "one: was not tested on any image, so there is nothing to compare" in done.err


def test_the_service_answers_with_scores_and_outlines(fitted: Run, tiles: Path) -> None:
    from headstart.serve import create_app
    from served import TestClient

    with TestClient(create_app([fitted.path], watch_seconds=0), base_url="http://127.0.0.1") as client:
        data = (tiles / "test" / "scratched" / "003.png").read_bytes()
        answer = client.post("/predict", files={"file": ("003.png", data, "image/png")})
        assert answer.status_code == 200, answer.text
        (entry,) = answer.json()["predictions"]
        assert entry["kind"] == "score"
        assert entry["label"] in ("good", "anomalous")
        assert entry["threshold"] == pytest.approx(fitted.manifest.state["threshold"])
        assert entry["heat_map"].startswith("iVBOR")


@pytest.mark.slow
def test_broken_cookies_are_found(shared_data: Path, cache: Path) -> None:
    result = fit(shared_data / "anomaly_cookie", settings=FitSettings(cache=cache), listener=Warned())
    assert result.test.roc_auc >= 0.99
    assert result.test.pixels is not None
    assert result.test.pixels.roc_auc > 0.975
    assert result.test.pixels.aupro > 0.92
    assert result.test.false_alarms <= binom.ppf(0.975, 14, 0.05)
    assert result.choice.estimator.alarms.enough


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flat")
    for index in range(5):
        Image.fromarray(tile(index)[0]).save(root / f"{index}.png")
    return root


def test_a_folder_of_good_images_is_enough(cli: Callable[..., SimpleNamespace], flat: Path, cache: Path) -> None:
    done = cli("fit", flat, "--task", "anomaly", "--backbone", "lite0@96", "--out", "run", "--cache", cache)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "no test defects"
    assert "16.7 %" in done.err
    assert "A rate of 5.0 % needs at least 19 good images" in done.err
    run = load("run")
    assert run.test_evaluation().images == 0
    assert (Path("run") / "report.html").is_file()
    labels = run.predict([*(tile(50 + seed)[0] for seed in range(4)), *(tile(60 + seed, defect=True)[0] for seed in range(4))]).labels
    assert labels[4:].count("anomalous") > labels[:4].count("anomalous")


def test_a_single_good_image_is_enough(flat: Path, cache: Path) -> None:
    dataset = Dataset(inputs=tile(0)[0][None], targets=Defects(np.zeros(1, np.int64)), parts=np.array([""]))
    result = fit(dataset, settings=FitSettings(task="anomaly", backbone="lite0@96", cache=cache))
    model = result.choice.estimator
    assert not model.alarms.guaranteed
    assert "one image does not tell how much good ones differ" in model.alarms.sentence()
    assert model.alarms.images == 12
    assert result.test.summary() == "no test defects"


def test_defects_among_labelled_images_are_tested_on(tiles: Path, tmp_path: Path, cache: Path) -> None:
    for kind in ("good", "scratched"):
        (tmp_path / kind).mkdir()
        for path in sorted((tiles / "test" / kind).iterdir()):
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    result = fit(tmp_path, settings=FitSettings(task="anomaly", backbone="lite0@96", cache=cache))
    targets = result.dataset.targets
    assert not targets.array[result.table.train].any()
    assert (targets.array == 1).sum() == 8
    assert targets.array[result.table.test].sum() == 8
    assert result.held_out == "all images with defects, and 1 good image held out, seed 0"


def test_images_with_defects_to_learn_from_are_left_out(tiles: Path, cache: Path) -> None:
    dataset = fitted_data(tiles)
    parts = dataset.parts.copy()
    bad = np.flatnonzero(dataset.targets.anomalous)
    parts[bad[:2]] = "train"
    said = Warned()
    result = fit(replace(dataset, parts=parts), settings=FitSettings(task="anomaly", backbone="lite0@96", cache=cache), listener=said)
    assert "2 images of the training part with a defect: left out" in " ".join(said.warnings)
    assert np.isnan(result.choice.out_of_sample).sum() == 2


def fitted_data(tiles: Path) -> Dataset:
    from headstart.data import dataset_of

    found = read_annotations(tiles)
    return dataset_of(found, read_defects(found))


class Warned(Listener):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_what_is_no_good_image_is_refused(tiles: Path, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.fromarray(tile(1)[0]).save(tmp_path / name / "1.png")
    with pytest.raises(DataError, match=r"nothing says which images are good; the labels are 'cats' and 'dogs'\. Put the good ones"):
        fit(tmp_path, settings=FitSettings(task="anomaly"))
    dataset = fitted_data(tiles)
    bad = dataset.take(np.flatnonzero(dataset.targets.anomalous))
    with pytest.raises(DataError, match="none of 8 images to learn from is good"):
        AnomalyDetection().check(replace(bad, parts=np.array(["train"] * 8)), FitSettings())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": 60.0}, "--budget does not go with the task anomaly: name the backbone"),
        ({"folds": 3}, "--folds does not go"), ({"head": "ridge"}, "--head does not go"),
        ({"fit_image": "crop"}, "--fit-image does not go"),
        ({"map": "linear"}, "--map does not go"), ({"class_weight": "balanced"}, "--class-weight does not go"),
        ({"backbone": "lite0+lite2"}, "takes one network without mirror images, not lite0.lite2"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        suited(FitSettings(**given))


def test_settings_are_completed() -> None:
    assert suited(FitSettings()).backbone == "efficientnet_lite0@256"
    assert suited(FitSettings(backbone="resnet18@320")).backbone == "resnet18@320"
    assert suited(FitSettings()).fit_image == "squash"


def test_maps_are_the_last_of_strides_8_and_16() -> None:
    lite = [(16, 128), (24, 64), (40, 32), (80, 16), (112, 16), (192, 8), (320, 8)]
    layers = tuple(MapLayer(f"stage{place}", channels, side, side) for place, (channels, side) in enumerate(lite, 1))
    assert choose_maps(FitSettings(backbone="lite0@256"))(layers).layers == ("stage3", "stage5")
    few = (MapLayer("only", 8, 4, 4),)
    assert choose_maps(FitSettings(backbone="lite0@256"))(few).layers == ("only",)


def test_the_threshold_is_the_conformal_quantile() -> None:
    scores = RANDOM.permutation(np.arange(1.0, 100.0))  # 99 of them
    found = FalseAlarms.of(scores, 0.05)
    assert found.threshold == 95
    assert found.assured == pytest.approx(0.05)
    assert found.enough
    assert FalseAlarms.of(np.arange(1.0, 20.0), 0.05).threshold == 19
    assert FalseAlarms.of(np.arange(1.0, 20.0), 0.05).enough
    few = FalseAlarms.of(np.arange(1.0, 19.0), 0.05)
    assert (few.threshold, few.assured, few.enough, few.needed) == (18.0, pytest.approx(1 / 19), False, 19)
    assert "at most 5.3 % of good images like these are above it. A rate of 5.0 % needs at least 19 good images" in few.sentence()
    assert FalseAlarms.from_state(json.loads(json.dumps(few.state()))) == few
    with pytest.raises(ParameterError, match="finite scores"):
        FalseAlarms.of(np.array([np.nan]))
    with pytest.raises(ParameterError, match="false_alarm_rate"):
        FalseAlarms.of(np.ones(3), 1.5)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (60, 0.1), (33, 0.2), (7, 0.05)])
def test_false_alarms_are_as_rare_as_assured(count: int, rate: float) -> None:
    alarms = []
    for _ in range(4000):
        scores = RANDOM.gamma(2.0, size=count + 1)
        found = FalseAlarms.of(scores[:-1], rate)
        alarms.append(scores[-1] > found.threshold)
    expected = found.assured
    assert abs(np.mean(alarms) - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5


def test_scores_agree_with_scikit_learn() -> None:
    targets = Defects(np.repeat([0, 1], [20, 15]), kinds=("good",) * 20 + ("bent",) * 9 + ("torn",) * 6)
    score = RANDOM.normal(size=35) + targets.array
    found = evaluate({"score": score, "map": np.zeros((35, 2, 2)), "threshold": np.full(35, 0.8)}, targets)
    assert found.scores["roc_auc"] == pytest.approx(roc_auc_score(targets.array, score))
    assert found.scores["average_precision"] == pytest.approx(average_precision_score(targets.array, score))
    assert found.scores["f1"] == pytest.approx(f1_score(targets.array, score > 0.8))
    assert found.by_kind()["torn"][:2] == (6, int((score[29:] > 0.8).sum()))
    rows = [*range(20), *range(29, 35)]
    assert found.by_kind()["torn"][2] == pytest.approx(roc_auc_score(targets.array[rows], score[rows]))
    assert any("torn: " in line for line in found.lines())
    assert json.dumps(found.to_dict(), default=float)


def test_what_is_undefined_is_said() -> None:
    score, zeros = np.array([1.0, 3.0, 2.0]), np.zeros((3, 2, 2))
    outputs = {"score": score, "map": zeros, "threshold": np.full(3, 2.5)}
    good = evaluate(outputs, Defects(np.zeros(3, np.int64)))
    assert good.summary() == "no test defects; 1 false alarm on 3 good test images"
    assert good.headline[0] == "false_alarm_rate"
    bad = evaluate(outputs, Defects(np.ones(3, np.int64)))
    assert bad.summary() == "test recall 0.3333 [0.0615, 0.7923] on 3 images with defects; no good test images"
    nothing = evaluate({name: array[:0] for name, array in outputs.items()}, Defects(np.zeros(0, np.int64)))
    assert nothing.summary() == "no test defects"
    assert np.isnan(nothing.scores["roc_auc"])


def test_the_interval_of_an_area_does_not_collapse() -> None:
    low, high = roc_auc_interval(1.0, 40, 14)
    assert 0.85 < low < 0.95
    assert high == 1.0
    assert roc_auc_interval(0.0, 40, 14) == pytest.approx((1 - high, 1 - low))
    low, high = roc_auc_interval(0.8, 50, 50)  # near Hanley and McNeil's interval in the middle
    error = np.sqrt((0.16 + 49 * (0.8 / 1.2 - 0.64) + 49 * (2 * 0.64 / 1.8 - 0.64)) / 2500)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert np.isnan(roc_auc_interval(float("nan"), 3, 0)).all()


def test_intervals_of_areas_cover() -> None:
    inside = []
    for _ in range(400):
        bad, good = RANDOM.normal(1.5, size=25), RANDOM.normal(size=20)
        area = float((bad[:, None] > good).mean())
        low, high = roc_auc_interval(area, 25, 20)
        inside.append(low <= 0.8556 <= high)  # Phi(1.5 / sqrt 2)
    assert np.mean(inside) > 0.92


def test_void_pixels_count_for_nothing() -> None:
    class Half:
        def read(self) -> np.ndarray:
            mask = np.zeros((256, 256), np.uint8)
            mask[:, :64], mask[:, 192:] = 1, 255
            return mask

    maps = np.zeros((1, 256, 256), np.float32)
    maps[:, :, :64], maps[:, :, 192:] = 1, 2  # the highest scores where nobody says what is there
    found = PixelScores.of(maps, Defects(np.ones(1, np.int64), ("bad",), (Half(),)))  # type: ignore[arg-type]
    assert found is not None
    assert found.roc_auc == pytest.approx(1.0, abs=1e-6)
    assert PixelScores.from_array(found.array()) == found
    assert PixelScores.of(maps, Defects(np.zeros(1, np.int64), ("good",), (None,))) is None


def test_defects_that_are_made_are_visible_and_small() -> None:
    picture = tile(3)[0]
    for seed in range(20):
        made = cut_paste(picture, np.random.default_rng(seed))
        changed = (made != picture).any(axis=2)
        assert 0.001 < changed.mean() < 0.25
        assert np.abs(made.astype(int) - picture)[changed].mean() > 8
    assert np.array_equal(cut_paste(picture, np.random.default_rng(1)), cut_paste(picture, np.random.default_rng(1)))
    assert np.array_equal(picture, tile(3)[0])


def test_views_are_the_image_moved_turned_scaled_and_lit() -> None:
    picture = tile(3)[0]
    found = views(picture)
    assert {kind: len(some) for kind, some in found.items()} == {"moved": 4, "turned": 2, "scaled": 2, "lit": 2}
    assert all(view.shape == picture.shape for some in found.values() for view in some)
    step = round(0.04 * SIDE)
    assert np.array_equal(found["moved"][0][step:], picture[:-step])
    assert np.array_equal(found["moved"][3][:, :-step], picture[:, step:])
    middle = slice(SIDE // 2 - 8, SIDE // 2 + 8)
    for some in (found["turned"], found["scaled"], found["lit"]):
        assert all(1 < np.abs(view.astype(float) - picture)[middle, middle].mean() < 30 for view in some)
    assert np.array_equal(mirrored(picture)[0][:, 0], picture[:, -1])
    assert np.array_equal(mirrored(picture)[1][0], picture[-1])


def test_large_images_are_drawn_at_a_bounded_size() -> None:
    values = np.zeros((1, 8, 8), np.float32)
    values[0, 2:4, 5:7] = 10
    predictions = AnomalyPredictions(
        outputs={"map": values, "score": np.array([10.0], np.float32)}, kept=np.array([0]), sizes=np.array([[10_000, 20_000]]),
        threshold=5.0,
    )  # fmt: skip
    (region,) = predictions.regions(0)
    x, y = np.array(region["outline"]).T
    assert x.min() == pytest.approx(20_000 * 5 / 8, abs=1500)
    assert y.max() == pytest.approx(10_000 * 4 / 8, abs=800)
    assert predictions.score_map(0, longer=512).shape == (256, 512)
    (record,) = records(["a.png"], predictions)
    assert record.line == "anomalous  10 (threshold 5)  in 1 region"
    assert len(record.values["heat_map"]) < 20_000


def test_edges_are_the_pixels_beside_others() -> None:
    mask = np.zeros((6, 6), np.bool_)
    mask[1:5, 1:5] = True
    assert edges(mask).sum() == 12
    assert not edges(np.ones((4, 4), np.bool_)).any()
