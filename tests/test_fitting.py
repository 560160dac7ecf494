"""`fit`: which images are learned from and tested on, what is written down, and what is said when the data cannot be used."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import FeatureStore, FitResult, FitSettings, fit, load, read_dataset
from headstart.backbones import Backbone
from headstart.data import LabelSets, dataset_from_arrays, dataset_from_paths
from headstart.errors import DataError, HeadstartError, ParameterError, RunError, StoreError
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.files import feature_store_file
from headstart.pipeline import Shard, fit_shard
from headstart.progress import Listener

QUICK = FitSettings(head="centroid")


class Heard(Listener):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []
        self.warned: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


@pytest.fixture
def copied(pictures: Path, tmp_path: Path) -> Path:
    """Two kinds of ten pictures, to be changed."""
    for kind in ("rings", "checks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in sorted((pictures / kind).iterdir())[:10]:
            shutil.copy(path, tmp_path / "data" / kind)
    return tmp_path / "data"


# From data to run


def test_a_fit_from_folder_to_run(pictures: Path, tmp_path: Path) -> None:
    heard = Heard()
    result = fit(pictures, out=tmp_path / "run", settings=FitSettings(folds=3), listener=heard, command="headstart fit pictures")
    assert heard.warned == []
    assert heard.stages[-1] == "Writing the run"
    assert result.test.accuracy >= 11 / 12
    assert result.cross_validation is not None
    assert result.cross_validation.images == 48
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["metrics"]["test_accuracy"] == result.test.accuracy
    assert manifest["metrics"]["test_accuracy_interval"] == list(result.test.interval)
    assert manifest["metrics"]["test_images"] == 12
    assert manifest["metrics"]["cross_validation"]["images"] == 48
    assert manifest["story"]["held_out"] == "12 images held out, stratified by class, seed 0"
    assert manifest["provenance"]["command"] == "headstart fit pictures"
    assert manifest["provenance"]["images"]["train"] == {"checks": 16, "rings": 16, "stripes": 16}
    assert set(manifest["story"]["seconds"]) >= {"reading", "features", "head", "testing"}
    assert sum(value for stage, value in result.seconds.items() if stage != "total") <= result.seconds["total"]


def test_the_same_seed_twice_and_another(pictures: Path) -> None:
    """No cache: nothing of the first is looked up by the second."""

    def weights(seed: int) -> tuple[bytes, list[int]]:
        result = fit(small, settings=FitSettings(head="logistic", backbone="lite0@96", seed=seed, cache=None))
        return result.choice.estimator.state()[1]["head.coef_"].tobytes(), result.dataset.part("test").tolist()

    small = read_dataset(pictures).take(np.arange(0, 60, 2))
    assert weights(1) == weights(1)
    assert weights(1)[1] != weights(2)[1]


def test_the_split_can_be_read_and_fitted_again(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = FitSettings(head="centroid", group_from=r"(\d)\.png$")
    first = fit(pictures, out=Path("runs/one"), settings=settings)
    again = read_dataset(tmp_path / "runs" / "one" / "split.csv")
    there = {path.resolve(): (label, part, group) for path, label, part, group in zip(
        first.dataset.inputs, first.dataset.targets.array.tolist(), first.dataset.parts, first.dataset.groups, strict=True)}  # fmt: skip
    here = {path.resolve(): (label, part, group) for path, label, part, group in zip(
        again.inputs, again.targets.array.tolist(), again.parts, again.groups, strict=True)}  # fmt: skip
    assert there == here
    second = fit("runs/one/split.csv", out="runs/two", settings=FitSettings(head="centroid"))
    np.testing.assert_array_equal(second.test.outcome.probabilities, first.test.outcome.probabilities)
    assert second.held_out == "the data's own test part"
    # The folders are moved together, as a project is.
    with (tmp_path / "runs" / "one" / "split.csv").open(encoding="utf-8", newline="") as file:
        assert all(not Path(row["path"]).is_absolute() for row in csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_unreadable_images_are_left_out_and_listed(copied: Path, tmp_path: Path) -> None:
    for index in range(7):
        (copied / "rings" / f"broken {index}.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    heard = Heard()
    result = fit(copied, out=tmp_path / "run", settings=QUICK, listener=heard)
    assert len(result.refused) == 7
    assert len(result.dataset) == 20
    assert heard.warned[0].startswith("7 of 27 images cannot be read and are left out:\n")
    assert heard.warned[0].endswith("and 2 more")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert sorted(Path(entry["path"]).name for entry in manifest["story"]["refused"]) == [f"broken {index}.jpg" for index in range(7)]
    assert all(entry["reason"] for entry in manifest["story"]["refused"])
    assert "broken" not in (tmp_path / "run" / "split.csv").read_text("utf-8")


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_a_class_that_cannot_be_read(copied: Path) -> None:
    (copied / "ghosts").mkdir()
    for index in range(3):
        (copied / "ghosts" / f"{index}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no training image of ghosts: it cannot be learned"):
        fit(copied, settings=QUICK)
    with pytest.raises(DataError, match=r"None of the 4 images can be read. The first: a.png"):
        fit(dataset_from_paths(["a.png", "b.png", "c.png", "d.png"], [0, 1, 0, 1]), settings=QUICK)


def test_copies_in_the_test_part_are_a_leak(copied: Path, tmp_path: Path) -> None:
    data = tmp_path / "parted"
    shutil.copytree(copied, data / "train")
    shutil.copytree(copied, data / "test")
    for path in sorted((data / "test").glob("*/*.png"))[1:]:
        Image.open(path).rotate(90).save(path)
    heard = Heard()
    result = fit(data, out=tmp_path / "run", settings=QUICK, listener=heard)
    assert [finding.kind for finding in result.findings if finding.severity == "error"] == ["leak"]
    assert heard.warned[0].startswith("1 test image is an exact copy of training images: the model has seen them")
    assert "test/checks/checks 00.png = train/checks/checks 00.png" in heard.warned[0]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["story"]["findings"][0]["kind"] == "leak"
    assert "an exact copy of training images" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_one_picture_under_two_labels(copied: Path) -> None:
    shutil.copy(copied / "rings" / "rings 00.png", copied / "checks" / "same.png")
    heard = Heard()
    result = fit(copied, settings=QUICK, listener=heard)
    assert "contradictory copies" in [finding.kind for finding in result.findings]
    assert any("at least one label of each is wrong" in text for text in heard.warned)
    names = result.dataset.names()
    pair = [names.index("rings/rings 00.png"), names.index("checks/same.png")]
    assert len(set(result.dataset.parts[pair].tolist())) == 1


def test_copies_do_not_flatter_a_held_out_part(copied: Path) -> None:
    """Random labels on pictures that stand there four times: a split that parts the copies would be right almost always."""
    random = np.random.default_rng(0)
    paths, labels = [], []
    for path in sorted(copied.glob("*/*.png")):
        label = int(random.integers(0, 2))
        paths += [path] * 4
        labels += [label] * 4
    result = fit(dataset_from_paths(paths, labels), settings=FitSettings(head="neighbours", test_share=0.4))
    assert result.test.accuracy < 0.9
    assert result.test.images >= 28


def test_several_labels_from_a_list(pictures: Path, tmp_path: Path) -> None:
    rows = ["path,label"]
    for path in sorted(pictures.glob("*/*.png")):
        label = {"rings": "round;dark", "stripes": "dark", "checks": ""}[path.parent.name]
        rows.append(f"{path},{label}")
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    result = fit(tmp_path / "list.csv", out=tmp_path / "run", settings=FitSettings(head="ridge", folds=2))
    assert isinstance(result.dataset.targets, LabelSets)
    assert result.test.accuracy > 0.6
    run = load(tmp_path / "run")
    assert run.link.independent
    again, _ = run.evaluate(read_dataset(tmp_path / "run" / "split.csv", classes=run.classes).take(result.dataset.part("test")))
    assert again.accuracy == result.test.accuracy
    assert json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["state"]["link"] == "sigmoid"


def test_arrays(tmp_path: Path) -> None:
    images = np.stack([draw(index % 3, index) for index in range(45)])
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(45) % 3)
    result = fit(tmp_path / "set.npz", out=tmp_path / "run", settings=QUICK)
    assert result.test.images == 9
    assert load(tmp_path / "run").predict(images[:2]).probabilities.shape == (2, 3)
    in_memory = fit(dataset_from_arrays(images, np.arange(45) % 3), settings=QUICK)
    np.testing.assert_array_equal(in_memory.test.outcome.probabilities, result.test.outcome.probabilities)


def test_grayscale_arrays_of_mixed_parts(tmp_path: Path) -> None:
    gray = np.stack([draw(index % 3, index)[:, :, 0] for index in range(30)])
    np.savez(tmp_path / "set.npz", x_train=gray[:24], y_train=np.arange(24) % 3, x_test=gray[24:], y_test=np.arange(24, 30) % 3)
    assert fit(tmp_path / "set.npz", settings=QUICK).test.images == 6


def test_a_class_of_a_single_image_takes_part(copied: Path) -> None:
    (copied / "lone").mkdir()
    Image.fromarray(draw(1, 7)).save(copied / "lone" / "one.png")
    result = fit(copied, settings=FitSettings(head="centroid", folds=3))
    assert result.dataset.counts("train")["lone"] == 1
    assert result.test.absent == ("lone",)
    assert result.cross_validation is not None
    assert result.cross_validation.absent == ("lone",)


def test_names_of_every_kind(copied: Path, tmp_path: Path) -> None:
    (copied / "checks").rename(copied / 'Käse & <Brot>, "neu"')
    (copied / "rings").rename(copied / "輪 1")
    result = fit(copied, out=tmp_path / "lauf 輪", settings=QUICK)
    assert load(tmp_path / "lauf 輪").classes == result.dataset.classes == ('Käse & <Brot>, "neu"', "輪 1")
    assert read_dataset(tmp_path / "lauf 輪" / "split.csv").classes == result.dataset.classes


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_names_that_are_no_utf8(copied: Path, tmp_path: Path) -> None:
    try:
        (copied / "rings" / "rings 00.png").rename(copied / "rings" / "caf\udce9.png")
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    (copied / "rings" / "brok\udce9n.png").write_bytes(b"rubbish")
    result = fit(copied, out=tmp_path / "run", settings=QUICK, command="headstart fit caf\udce9")
    assert len(result.dataset) == 20
    refused = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["story"]["refused"]
    assert refused[0]["path"].endswith("brok\\udce9n.png")
    load(tmp_path / "run")


def test_an_earlier_run_inside_the_data_is_no_class(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    fit(".", out="runs/first", settings=QUICK)
    heard = Heard()
    second = fit(".", out="runs/second", settings=QUICK, listener=heard)
    assert second.dataset.classes == ("checks", "rings")
    assert len(second.dataset) == 20
    assert any("run folder" in text for text in heard.said)


def test_a_run_is_no_data(copied: Path, tmp_path: Path) -> None:
    fit(copied, out=tmp_path / "run", settings=QUICK)
    with pytest.raises(DataError, match=r"run: is a run folder, .* To use it: headstart predict .*run IMAGE"):
        fit(tmp_path / "run", settings=QUICK)


def test_a_target_is_refused_before_any_work(copied: Path) -> None:
    heard = Heard()
    with pytest.raises(RunError, match="is a folder that is not an earlier run"):
        fit(copied, out=copied, settings=QUICK, listener=heard)
    assert heard.stages == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitSettings(test_share=0), "test_share must be a number above 0 and below 1, got 0"),
        (lambda: FitSettings(test_share=float("nan")), "test_share must be a number above 0 and below 1, got nan"),
        (lambda: FitSettings(folds=1), r"folds must be 0 \(none\) or a whole number of at least 2, got 1"),
        (lambda: FitSettings(folds=-2), r"folds must be 0 \(none\) or a whole number of at least 2, got -2"),
        (lambda: FitSettings(class_weight="equal"), "class_weight must be 'balanced', got 'equal'"),
        (lambda: FitSettings(head="forest"), "head must be one of auto"),
        (lambda: FitSettings(engine="tpu"), "engine must be one of auto"),
        (lambda: FitSettings(fit_image="stretch"), "fit_image must be one of crop, squash, got 'stretch'"),
        (lambda: FitSettings(seed=-1), "seed must be a whole number from 0 to 4294967295, got -1"),
        *(
            (lambda text=text: Shard.parse(text), f"--shard must be i/n .* got '{text}'")
            for text in ("0/2", "3/2", "1", "a/b", "1/2/3", "")
        ),
    ],
)
def test_settings_outside_their_limits(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


def test_settings_that_come_too_late(copied: Path) -> None:
    with pytest.raises(ParameterError, match="group_from is for data that are still to be read; give it to read_dataset"):
        fit(read_dataset(copied), settings=FitSettings(group_from="(.)"))
    heard = Heard()
    with pytest.raises(ParameterError, match="1000 folds need at least 1000 images"):
        fit(copied, settings=FitSettings(folds=1000), listener=heard)
    assert heard.stages == ["Reading the data"]


# Shards


@pytest.mark.slow
def test_merged_shards_are_as_good_as_the_whole(copied: Path, tmp_path: Path) -> None:
    shards = [FitSettings(cache=tmp_path / f"cache{index}") for index in (1, 2)]
    done = [fit_shard(copied, Shard(index + 1, 2), settings=settings) for index, settings in enumerate(shards)]
    assert [(part.images, part.computed) for part in done] == [(10, 10), (10, 10)]
    merged = tmp_path / "merged"
    with FeatureStore(feature_store_file(merged)) as store:
        for part in done:
            store.merge(part.store)
    whole = FitSettings(cache=merged, head="ridge")
    assert prepare(ExtractorSettings.of(whole)).extract(read_dataset(copied).inputs).computed == 0
    sharded: FitResult = fit(copied, settings=whole)
    plain = fit(copied, settings=FitSettings(cache=None, head="ridge"))
    np.testing.assert_array_equal(sharded.test.outcome.probabilities, plain.test.outcome.probabilities)


def test_shards_that_cannot_be(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be combined with --no-cache"):
        fit_shard(copied, Shard(1, 2), settings=FitSettings(cache=None))
    with pytest.raises(DataError, match="Shard 30/30 has no image: there are only 20"):
        fit_shard(copied, Shard(30, 30), settings=QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written. A shard whose features are not stored is of no use"):
        fit_shard(copied, Shard(1, 2), settings=FitSettings(cache=tmp_path / "file" / "cache"))


def test_a_shard_whose_store_fails(copied: Path, backbone: Backbone, tmp_path: Path) -> None:
    shutil.copytree(backbone.network.parent, tmp_path / "cache" / "networks")
    feature_store_file(tmp_path / "cache").write_bytes(b"this is no database" * 1000)
    with pytest.raises(HeadstartError, match="A shard whose features are not stored is of no use"):
        fit_shard(copied, Shard(1, 2), settings=FitSettings(cache=tmp_path / "cache"))
    heard = Heard()
    assert fit(copied, settings=FitSettings(cache=tmp_path / "cache", head="centroid"), listener=heard).test.images == 4
    assert [text for text in heard.warned if "Continuing without storing features" in text] == heard.warned[:1]
