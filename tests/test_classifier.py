"""`TransferClassifier` as scikit-learn's users use it, on pictures through the real backbone. Conventions: see the file beside this one."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from headstart import HeadstartError, TransferClassifier, load_backbone
from headstart.backbones import Backbone
from headstart.errors import DataError, ParameterError
from headstart.modalities.image import read_image

Data = tuple[list[Path], np.ndarray]


@pytest.fixture(scope="module")
def data(pictures: Path) -> Data:
    """36 pictures of three kinds, mixed."""
    paths = [path for kind in ("checks", "rings", "stripes") for path in sorted((pictures / kind).iterdir())[:12]]
    order = np.random.default_rng(3).permutation(len(paths))
    return [paths[i] for i in order], np.array([paths[i].parent.name for i in order])


def _indicators(labels: np.ndarray) -> np.ndarray:
    return np.stack([labels == "rings", labels != "checks", labels == "checks"], axis=1)


@pytest.fixture(scope="module")
def fitted(data: Data, tmp_path_factory: pytest.TempPathFactory) -> TransferClassifier:
    """With features of its own: those that other tests have stored may come from another engine."""
    return TransferClassifier(head="logistic", cache=tmp_path_factory.mktemp("own")).fit(data[0][:24], data[1][:24])


def test_it_learns(fitted: TransferClassifier, data: Data) -> None:
    paths, labels = data
    assert fitted.score(paths[24:], labels[24:]) >= 11 / 12
    assert fitted.classes_.tolist() == ["checks", "rings", "stripes"]
    probabilities = fitted.predict_proba(paths[24:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(paths[24:]))


def test_every_form_of_images_gives_the_same(fitted: TransferClassifier, data: Data) -> None:
    paths = data[0][24:30]
    pixels = [read_image(path) for path in paths]
    wanted = fitted.predict_proba(paths)
    for form in (list(map(str, paths)), tuple(paths), np.array(list(map(str, paths))), np.array(paths, dtype=object),
                 [path.read_bytes() for path in paths], pixels, np.stack(pixels)):  # fmt: skip
        np.testing.assert_array_equal(fitted.predict_proba(form), wanted)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.str_, object])
def test_labels_come_back_as_they_went_in(data: Data, kind: type) -> None:
    paths, labels = data
    given = (labels == "rings").astype(int) * 7 + 2 if kind in (np.int64, np.uint8) else labels
    given = given.astype(kind)
    classifier = TransferClassifier(head="centroid").fit(paths[:24], given[:24])
    predicted = classifier.predict(paths[24:])
    assert predicted.dtype == given.dtype
    assert np.mean(predicted == given[24:]) > 0.8
    assert classifier.fit(paths[:24], given[:24].tolist()).predict(paths[24:]).tolist() == predicted.tolist()


@pytest.mark.parametrize("kind", [bool, int])
def test_several_labels(data: Data, kind: type) -> None:
    paths, labels = data
    several = _indicators(labels).astype(kind)
    classifier = TransferClassifier(head="ridge").fit(paths[:24], several[:24])
    predicted, probabilities = classifier.predict(paths[24:]), classifier.predict_proba(paths[24:])
    assert predicted.dtype == several.dtype
    np.testing.assert_array_equal(predicted.astype(bool), probabilities > 0.5)
    assert classifier.score(paths[24:], several[24:]) > 0.7
    assert not np.allclose(probabilities.sum(axis=1), 1)


def test_the_same_seed_gives_the_same_bits(data: Data, tmp_path: Path) -> None:
    paths, labels = data
    results = []
    for where in (tmp_path, None):  # None: no memo of an earlier choice, everything is computed again
        classifier = TransferClassifier(head="logistic", cache=where, seed=5).fit(paths[:24], labels[:24])
        results.append(classifier.predict_proba(paths[24:]).tobytes())
    assert results[0] == results[1]


def test_parameters_can_be_read_set_and_cloned() -> None:
    classifier = TransferClassifier("efficientnet_lite1", head="ridge", class_weight={"a": 2.0}, seed=4, cache=None)
    assert clone(classifier).get_params() == classifier.get_params()
    assert "head='ridge'" in repr(classifier)
    with pytest.raises(ValueError, match="Invalid parameter 'haed'"):
        classifier.set_params(haed="ridge")


def test_cross_validation_grid_search_and_pipeline(data: Data) -> None:
    paths, labels = data
    assert cross_val_score(TransferClassifier(head="centroid"), paths, labels, cv=3).mean() > 0.85
    search = GridSearchCV(TransferClassifier(), {"head": ["centroid", "ridge"]}, cv=2, error_score="raise").fit(paths, labels)
    assert set(search.cv_results_["param_head"]) == {"centroid", "ridge"}
    assert search.score(paths, labels) > 0.9
    pipeline = make_pipeline(
        FunctionTransformer(lambda some: [read_image(path)[:, ::-1] for path in some]), TransferClassifier(head="ridge")
    )
    assert pipeline.fit(paths[:24], labels[:24]).score(paths[24:], labels[24:]) > 0.8
    assert pipeline.set_params(transferclassifier__head="centroid").fit(paths[:24], labels[:24]).predict(paths[:1]).shape == (1,)


def test_groups_reach_the_choice(data: Data) -> None:
    """Four near copies of each image with labels at random: only who is told that they belong together sees that nothing was learned."""
    paths, _ = data
    chance = np.repeat(np.random.default_rng(1).integers(0, 2, 12), 4)
    copies = [read_image(path).copy() for path in paths[:12] for _ in range(4)]
    for index, image in enumerate(copies):
        image[0, 0] = index  # whole copies are kept together by themselves
    groups = np.repeat(np.arange(12), 4).astype(str)
    right = {}
    for name, given in (("alone", None), ("grouped", groups)):
        choice = TransferClassifier(head="ridge").fit(copies, chance, groups=given).choice_
        right[name] = np.mean(choice.out_of_sample.argmax(axis=1) == chance)
    assert right["alone"] > 0.95
    assert right["grouped"] < 0.8
    scores = cross_val_score(
        TransferClassifier(head="centroid"), copies, chance, groups=groups, cv=GroupKFold(3), params={"groups": groups}, error_score="raise"
    )
    assert len(scores) == 3


def test_unfitted() -> None:
    for use in (lambda c: c.predict([b"x"]), lambda c: c.predict_proba([b"x"]), lambda c: c.score([b"x"], [1])):
        with pytest.raises(NotFittedError):
            use(TransferClassifier())


def test_training_images_that_cannot_be_read_are_left_out(data: Data, tmp_path: Path) -> None:
    paths, labels = data
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:300])
    mixed = [broken, *paths[:12], tmp_path / "absent.png", *paths[12:24]]
    named = np.array(["rings", *labels[:12], "checks", *labels[12:24]])
    groups = np.arange(26)
    with pytest.warns(RuntimeWarning, match="2 of 26 images cannot be read and are left out:\n.*broken.png: .*cut off.*\n.*absent.png"):
        found = TransferClassifier(head="logistic").fit(mixed, named, groups=groups)
    assert [error.path for error in found.refused_] == [str(broken), str(tmp_path / "absent.png")]
    assert found.n_images_in_ == 24
    plain = TransferClassifier(head="logistic").fit(paths[:24], labels[:24], groups=np.arange(24))
    np.testing.assert_array_equal(found.predict_proba(paths[24:]), plain.predict_proba(paths[24:]))
    with pytest.raises(
        DataError, match=r"1 of 2 images cannot be read and have no prediction. Leave them out and try again:\n  .*broken.png: "
    ):
        found.predict([paths[0], broken])
    with pytest.raises(DataError, match=r"None of the 2 images can be read. The first: .*broken"):
        TransferClassifier().fit([broken, broken], [0, 1])


def test_a_parameter_changed_after_fit_waits_for_the_next_fit(data: Data) -> None:
    paths, labels = data
    wide = [read_image(path)[:24] for path in paths]  # 48 x 24: crop and squash differ
    classifier = TransferClassifier(head="ridge").fit(wide[:24], labels[:24])
    before = classifier.predict_proba(wide[24:])
    classifier.set_params(fit_image="squash", backbone="efficientnet_lite1", head="centroid")
    np.testing.assert_array_equal(classifier.predict_proba(wide[24:]), before)
    classifier.set_params(backbone="efficientnet_lite0", head="ridge").fit(wide[:24], labels[:24])
    assert not np.array_equal(classifier.predict_proba(wide[24:]), before)
    assert classifier.extractor_.preprocessing.fit == "squash"


def test_prediction_leaves_no_trace(fitted: TransferClassifier, data: Data) -> None:
    before = {name: id(value) for name, value in vars(fitted).items()}
    fitted.predict(data[0][24:26])
    assert {name: id(value) for name, value in vars(fitted).items()} == before


def test_copies_and_pickles_predict_alike(fitted: TransferClassifier, data: Data) -> None:
    """joblib sends estimators to other processes; they carry no engine along and make their own."""
    wanted = fitted.predict_proba(data[0][24:28])
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.predict_proba(data[0][24:28]), wanted)
    state = len(pickle.dumps(fitted))
    assert state < 2_000_000
    nothing_kept = TransferClassifier(head="centroid", cache=None).fit(data[0][:24], data[1][:24])
    assert pickle.loads(pickle.dumps(nothing_kept)).predict(data[0][24:25]).tolist() == nothing_kept.predict(data[0][24:25]).tolist()


def test_a_pickle_refuses_another_backbone(fitted: TransferClassifier, data: Data) -> None:
    other = pickle.loads(pickle.dumps(fitted))
    other._fitted_with = (other._fitted_with[0], "another extractor")
    with pytest.raises(HeadstartError, match=r"fitted on features of another extractor.*Fit again"):
        other.predict(data[0][:1])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"head": "kernel-rige"}, r"head must be one of auto, .*got 'kernel-rige'.*Did you mean kernel_ridge"),
        ({"engine": "tpu"}, r"engine must be one of auto, openvino, onnxruntime, torch, got 'tpu'"),
        ({"fit_image": "stretch"}, r"fit_image must be one of crop, squash, got 'stretch'"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 1.5}, r"seed must be a whole number"),
        ({"seed": None}, r"seed must be a whole number"),
    ],
)
def test_parameters_outside_their_limits_are_refused_before_any_work(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TransferClassifier(**parameters).fit([b"never read", b"never read"], [0, 1])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("photo.jpg", "got a single one. Put it into a list"),
        (Path("photo.jpg"), "got a single one"),
        (b"bytes", "got a single one"),
        (np.zeros((32, 32, 3), np.uint8), "got a single one"),
        (np.zeros((4, 32, 32, 3)), r"X are float64 from 0 to 0; expected uint8 .* \(X \* 255\)\.round"),
        (np.zeros((4, 10)), r"X have the shape \(4, 10\); expected \(n, height, width, 3\)"),
        (np.zeros((2, 2), object), r"got object \(2, 2\)"),
        ([], "X is empty"),
        (None, "got NoneType"),
        (5, "got int"),
        ({"a.png": 1}, "got dict"),
        ((path for path in ["a.png"]), "got generator"),
        ([None, None], r"X\[0\] is missing: None"),
        (["a.png", 3.5], r"X\[1\] is not an image: 3.5"),
    ],
)
def test_what_is_no_list_of_images(X: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TransferClassifier().fit(X, [0, 1])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 0], "4 images but 3 labels in y; one for each image is needed"),
        (None, "y is None"),
        (["a"] * 4, "at least two classes; all 4 have the one class 'a'"),
        ([0.5, 1.5, 2.5, 3.5], "continuous"),
        ([0, 1, float("nan"), 1], r"1 of 4 labels in y are missing, the first at position 2 \(nan\)"),
        ("abcd", "y must be a list"),
        ([[0, 1], [1], [0], [1, 0]], "y must be a list"),
    ],
)
def test_labels_that_do_not_fit(data: Data, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TransferClassifier().fit(data[0][:4], y)


def test_groups_that_do_not_fit(data: Data) -> None:
    with pytest.raises(DataError, match="4 images but 3 groups; one for each image is needed"):
        TransferClassifier().fit(data[0][:4], [0, 1, 0, 1], groups=[1, 2, 3])


def test_a_float_array_in_the_list_is_refused_as_an_image(data: Data) -> None:
    with pytest.raises(
        DataError, match=r"X are arrays of float64 from 0 to 1; expected uint8 from 0 to 255. Convert them: \(image \* 255\)"
    ):
        TransferClassifier().fit([np.zeros((8, 8, 3)), np.ones((8, 8, 3))], [0, 1])


def test_a_cache_that_is_a_file(tmp_path: Path, data: Data) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ParameterError, match=r"cache must be a folder, and .*cache is a file"):
        TransferClassifier(cache=tmp_path / "cache").fit(data[0][:4], data[1][:4])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, data: Data) -> None:
    (tmp_path / "file").write_text("")
    classifier = TransferClassifier(head="centroid", cache=tmp_path / "file" / "cache")
    with pytest.warns(RuntimeWarning, match=r"cache folder .*file/cache cannot be written. Continuing without storing features") as caught:
        classifier.fit(data[0][:24], data[1][:24])
    assert len(caught) == 1
    kept = TransferClassifier(head="centroid", cache=tmp_path / "own").fit(data[0][:24], data[1][:24])  # whatever engine other tests used
    np.testing.assert_array_equal(classifier.predict_proba(data[0][24:]), kept.predict_proba(data[0][24:]))
    folder = classifier.extractor_.backbone.network.parent
    assert folder.is_dir()
    del classifier
    gc.collect()
    assert not folder.is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path, data: Data, backbone: Backbone) -> None:
    shutil.copytree(backbone.network.parent, tmp_path / "cache" / "networks")
    (tmp_path / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.warns(RuntimeWarning, match="Continuing without storing features") as caught:
            found = TransferClassifier(head="centroid", cache=tmp_path / "cache").fit(data[0][:24], data[1][:24])
        assert len(caught) == 1
        assert found.extractor_.backbone.network.parent == tmp_path / "cache" / "networks"
    finally:
        (tmp_path / "cache").chmod(stat.S_IRWXU)


def test_weights_of_ones_own(data: Data, cache: Path, tmp_path: Path) -> None:
    """The published weights under another name are the same backbone; a missing file is refused."""
    from headstart.backbones import find
    from headstart.backbones.weights import embedded_weights

    weights = tmp_path / "mine.pth"
    shutil.copy(embedded_weights(find("efficientnet_lite0")), weights)
    own = TransferClassifier(head="centroid", weights=weights).fit(data[0][:12], data[1][:12])
    assert own.extractor_.backbone.weights_digest == load_backbone("efficientnet_lite0", cache=cache).weights_digest
    with pytest.raises(HeadstartError, match="no such weight file"):
        TransferClassifier(weights=tmp_path / "absent.pth").fit(data[0][:12], data[1][:12])


def test_seconds_are_told(fitted: TransferClassifier) -> None:
    assert set(fitted.seconds_) == {"backbone", "features", "head"}
    assert all(value >= 0 for value in fitted.seconds_.values())
