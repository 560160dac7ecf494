"""`TransferClassifier` with a fine-tuning, as scikit-learn's users use it."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from headstart import FineTuning, TransferClassifier
from headstart.errors import DataError, ParameterError
from headstart.modalities.image import read_image

pytestmark = pytest.mark.torch
Data = tuple[list[Path], np.ndarray]
QUICK = FineTuning(unfreeze=2, steps=4, batch_size=8, image_size=32, lr=1e-4, validation_share=0, keep="last", augment="none")


def estimator(plan: FineTuning | None = QUICK, **parameters: Any) -> TransferClassifier:
    return TransferClassifier(**{"head": "centroid", "engine": "onnxruntime", "fine_tuning": plan, **parameters})


@pytest.fixture(scope="module")
def data(pictures: Path) -> Data:
    """30 pictures of three kinds, mixed."""
    paths = [path for kind in ("checks", "rings", "stripes") for path in sorted((pictures / kind).iterdir())[:10]]
    order = np.random.default_rng(3).permutation(len(paths))
    return [paths[i] for i in order], np.array([paths[i].parent.name for i in order])


@pytest.fixture(scope="module")
def fitted(data: Data, cache: Path) -> TransferClassifier:
    return estimator(cache=cache).fit(data[0][:24], data[1][:24])


def test_it_learns_and_tells_how(fitted: TransferClassifier, data: Data) -> None:
    paths, labels = data
    assert fitted.score(paths[24:], labels[24:]) >= 5 / 6
    assert fitted.classes_.tolist() == ["checks", "rings", "stripes"]
    assert fitted.predict(paths[:2]).dtype == labels.dtype
    tuned, probe = fitted.fine_tuned_, fitted.probe_
    assert tuned is not None
    assert probe is not None
    assert tuned.trained == ("stage7", "last")
    assert len(tuned.history.epochs) == 2  # 4 steps of 8 in 24 images
    assert fitted.extractor_.preprocessing.size == 32
    row, *earlier = fitted.choice_.evidence
    assert (row.chosen, row.view, row.head) == (True, "stage7, last trained", "linear head")
    assert [one.head for one in earlier] == [one.head for one in probe.evidence]
    assert not any(one.chosen for one in earlier)
    assert fitted.choice_.reason == "the training was asked for, and its last epoch (2) is kept"
    assert set(fitted.seconds_) >= {"backbone", "features", "head", "fine-tuning"}


def test_features_are_those_of_the_trained_network(fitted: TransferClassifier, data: Data) -> None:
    paths = data[0][24:]
    features = fitted.extractor_(paths)
    np.testing.assert_array_equal(fitted.choice_.estimator.predict_proba(features.values), fitted.predict_proba(paths))
    frozen = fitted.extract(paths)
    assert fitted.extractor_.id != estimator(None).fit(paths, np.arange(6) % 2).extractor_.id
    last = fitted.extractor_.backbone.last
    assert features.values.shape == frozen.values.shape
    assert np.abs(features.values - frozen.values)[:, last.start : last.stop].max() > 1e-3


def test_parameters_are_those_that_were_given() -> None:
    plan = FineTuning(strategy="full", epochs=2)
    one = estimator(plan, seed=3)
    assert one.get_params()["fine_tuning"] is plan
    assert clone(one).get_params() == one.get_params()
    assert clone(one).fine_tuning == plan
    one.set_params(fine_tuning=None)
    assert one.fine_tuning is None
    assert "fine_tuning=FineTuning(" in repr(estimator(plan, seed=3)).replace("\n", "")
    with pytest.raises(ParameterError, match="fine_tuning must be a FineTuning, got 'partial'"):
        estimator("partial").fit([b"never read", b"never read"], [0, 1])  # type: ignore[arg-type]


def test_copies_and_pickles_carry_the_network_along(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else has it: not the cache, and not the classifier that it came from, when that is gone."""
    paths, labels = data
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one = estimator(cache=None).fit(paths[:24], labels[:24])
    wanted = one.predict_proba(paths[24:])
    sent = pickle.dumps(one)
    copied = copy.deepcopy(one)
    assert list(tmp_path.glob("headstart-trained-*"))
    del one
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    other = pickle.loads(sent)
    again = pickle.loads(pickle.dumps(other))  # before it was used
    for each in (other, copied, again):
        np.testing.assert_array_equal(each.predict_proba(paths[24:]), wanted)
    once_more = pickle.loads(pickle.dumps(other))  # after it was used
    np.testing.assert_array_equal(once_more.predict_proba(paths[24:]), wanted)
    del other, copied, again, once_more, each
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_not_filled_with_networks(fitted: TransferClassifier, cache: Path) -> None:
    assert fitted.extractor_.backbone.network.is_file()
    assert cache not in fitted.extractor_.backbone.network.parents


def test_cross_validation_of_arrays(fitted: TransferClassifier, data: Data) -> None:
    """An array gives what files give, and the same seed the same."""
    paths, labels = data
    images = np.stack([read_image(path) for path in paths])
    scores = cross_val_score(estimator(), images, labels, cv=[(np.arange(24), np.arange(24, 30))], error_score="raise")
    assert scores.tolist() == [fitted.score(paths[24:], labels[24:])]


def test_several_labels(data: Data) -> None:
    paths, labels = data
    several = np.stack([labels == "rings", labels != "checks", labels == "checks"], axis=1)
    found = estimator().fit(paths[:24], several[:24].astype(int))
    assert found.predict(paths[24:]).dtype == int
    probabilities = found.predict_proba(paths[24:])
    np.testing.assert_array_equal(found.predict(paths[24:]).astype(bool), probabilities > 0.5)
    assert ((probabilities > 0.5) == several[24:]).mean() > 0.8
    assert not np.allclose(probabilities.sum(axis=1), 1)


def test_class_weights_reach_the_training(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.training.tuning as tuning

    seen: list[Any] = []

    def stop(job: Any, *_: Any, **__: Any) -> None:
        seen.append(job)
        raise RuntimeError

    monkeypatch.setattr(tuning, "train", stop)
    few = np.concatenate([np.flatnonzero(data[1] == "rings")[:8], np.flatnonzero(data[1] == "checks")[:2]])
    images, labels = [data[0][i] for i in few], data[1][few]
    for given, groups in (("balanced", None), ({"rings": 3.0}, np.arange(10)[::-1] // 2)):
        with pytest.raises(RuntimeError):
            estimator(class_weight=given).fit(images, labels, groups=groups)
    balanced, named = seen
    np.testing.assert_allclose(balanced.task.loss.class_weights, [10 / (2 * 2), 10 / (2 * 8)])  # checks, rings: n / (k n_c)
    np.testing.assert_allclose(named.task.loss.class_weights, [1, 3])
    assert named.task.groups.tolist() == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    assert balanced.task.groups is None
    assert (balanced.train.tolist(), balanced.validation.tolist(), balanced.select_best) == (list(range(10)), [], False)


def test_validation_is_cut_by_groups(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.training.tuning as tuning

    def stop(job: Any, *_: Any, **__: Any) -> None:
        held, rest = set(job.task.groups[job.validation]), set(job.task.groups[job.train])
        assert job.select_best
        assert held
        assert not held & rest
        assert sorted([*job.train, *job.validation]) == list(range(30))
        raise RuntimeError

    monkeypatch.setattr(tuning, "train", stop)
    with pytest.raises(RuntimeError):
        estimator(FineTuning(steps=2, validation_share=0.3)).fit(*data, groups=np.arange(30) // 3)


def test_a_chosen_epoch_and_its_evidence(data: Data) -> None:
    found = estimator(FineTuning(epochs=2, batch_size=12, image_size=32, validation_share=0.3, ship="trained"), engine="auto").fit(*data)
    tuned = found.fine_tuned_
    assert tuned is not None
    assert tuned.predictions is not None
    known = ~np.isnan(found.choice_.out_of_sample).any(axis=1)
    assert known.sum() == len(tuned.predictions) == found.choice_.evidence[0].images == 9
    right = found.classes_[found.choice_.out_of_sample[known].argmax(axis=1)] == data[1][known]
    assert found.choice_.evidence[0].accuracy == pytest.approx(right.mean())
    # The network in the engine says of these images what was said of them in training.
    held = [path for path, is_held in zip(data[0], known, strict=True) if is_held]
    np.testing.assert_allclose(found.choice_.estimator.logits(found.extractor_(held).values), tuned.predictions, rtol=5e-3, atol=2e-2)


def test_a_refit_forgets_the_last_one(fitted: TransferClassifier, data: Data) -> None:
    paths, labels = data
    one = copy.deepcopy(fitted)
    one.set_params(fine_tuning=None)
    np.testing.assert_array_equal(one.predict_proba(paths[24:]), fitted.predict_proba(paths[24:]))  # parameters wait for the next fit
    one.fit(paths[:24], labels[:24])
    assert (one.fine_tuned_, one.probe_) == (None, None)
    plain = estimator(None).fit(paths[:24], labels[:24])
    np.testing.assert_array_equal(one.predict_proba(paths[24:]), plain.predict_proba(paths[24:]))
    assert len(pickle.dumps(one)) < 2_000_000
    two = labels == "rings"
    one.set_params(fine_tuning=FineTuning(strategy="probe", start="random", head_layers=(8,), loss="binary", steps=2, image_size=32))
    one.fit(paths[:24], two[:24])
    assert one.probe_ is None
    assert one.classes_.tolist() == [False, True]
    assert len(one.choice_.evidence) == 1
    assert one.choice_.evidence[0].head == "dense 8 head"
    np.testing.assert_allclose(one.predict_proba(paths[24:]).sum(axis=1), 1)


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_images_that_cannot_be_read_are_left_out(data: Data, tmp_path: Path) -> None:
    paths, labels = data
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    plan = FineTuning(strategy="probe", steps=1, image_size=32, start="random")
    found = estimator(plan).fit([tmp_path / "broken.png", *paths[:12]], ["rings", *labels[:12]])
    assert found.n_images_in_ == 12
    assert [error.path for error in found.refused_] == [str(tmp_path / "broken.png")]
    with pytest.raises(DataError, match="None of the 2 images can be read"):
        estimator(plan).fit([tmp_path / "broken.png", tmp_path / "absent.png"], [0, 1])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (FineTuning(unfreeze="stage9"), "has no stage 'stage9'; it has stem, stage1"),
        (FineTuning(unfreeze=10), "has 9 stages .*; unfreeze must be from 1 to that, got 10"),
        (FineTuning(loss="binary"), "The loss 'binary' is for two classes"),
        (FineTuning(augment="flap=1"), "Augmentation has no setting 'flap'. Did you mean flip"),
        (FineTuning(augment="absent.toml"), "There is no file absent.toml"),
        (FineTuning(device="cuda"), "device is 'cuda', and PyTorch finds no GPU here"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(plan: FineTuning, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ParameterError, match=message):
        estimator(plan).fit([b"never read"] * 3, ["a", "b", "c"])
