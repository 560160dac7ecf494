"""Images and labels as Python programs give them: the same rules for data sets, the estimator, a run and archives."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import TransferClassifier, dataset_from_arrays, dataset_from_paths, load, read_dataset
from headstart.data.cells import is_missing, label_text
from headstart.data.values import checked_groups, checked_images, checked_labels, entries, image_array, one_hot_note
from headstart.errors import DataError
from headstart.explanation import explain

pandas = pytest.importorskip("pandas", reason="needs pandas")
polars = pytest.importorskip("polars", reason="needs polars")

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)
WORDS = ["a", "b", "a"]
MISSING = [
    None, float("nan"), np.float32("nan"), np.float64("nan"), pandas.NA, pandas.NaT, np.datetime64("NaT"), np.timedelta64("NaT"),
    decimal.Decimal("NaN"),
]  # fmt: skip
PRESENT = ["", "a", 0, 0.0, False, b"", np.str_("x"), np.int64(0), float("inf"), datetime.date(2020, 1, 1), (), "None"]


@pytest.mark.parametrize("value", [*MISSING, *PRESENT], ids=repr)
def test_missing_is_what_pandas_calls_missing(value: Any) -> None:
    assert is_missing(value) == (not isinstance(value, tuple) and bool(pandas.isna(value)))
    assert is_missing(np.ma.masked)
    assert (label_text(value) == "") == (is_missing(value) or (isinstance(value, str | bytes) and not value))


def test_pandas_is_not_imported_for_that(tmp_path: Path) -> None:
    code = "import sys; from headstart import dataset_from_paths; dataset_from_paths(['a'], ['b']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not {"pandas", "polars", "sklearn", "torch"} & set(done.stdout.split())


COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda values: values,
    "tuple": tuple,
    "objects": lambda values: np.array(values, dtype=object),
    "Series": lambda values: pandas.Series(values),
    "string": lambda values: pandas.Series(values, dtype="string"),
    "category": lambda values: pandas.Series(values, dtype="category"),
    "Index": lambda values: pandas.Index(values),
    "column of a DataFrame": lambda values: pandas.DataFrame({"x": values})["x"],
    "polars": lambda values: polars.Series(values),
    "polars categories": lambda values: polars.Series(values, dtype=polars.Categorical),
    "column of polars": lambda values: polars.DataFrame({"x": values})["x"],
}


@pytest.mark.parametrize("made", COLUMNS.values(), ids=COLUMNS)
def test_columns_are_lists_everywhere(made: Callable[[list[Any]], Any], pictures: Path, run: Path) -> None:
    paths = [str(path) for kind in ("rings", "checks") for path in sorted((pictures / kind).iterdir())[:10]]
    labels = ["rings"] * 10 + ["checks"] * 10
    dataset = dataset_from_paths(made(paths), made(labels), groups=made(labels), parts=made(["train"] * 20))
    assert (dataset.classes, dataset.counts("train")) == (("checks", "rings"), {"checks": 10, "rings": 10})
    assert load(run).predict(made(paths[:3])).labels == ("rings",) * 3
    fitted = TransferClassifier(head="centroid").fit(made(paths), made(labels))
    assert fitted.classes_.tolist() == ["checks", "rings"]
    assert fitted.predict(made(paths[:2])).tolist() == ["rings", "rings"]


@pytest.mark.parametrize("made", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA], ids=repr)
def test_a_missing_label_is_refused_everywhere(made: Callable[[list[Any]], Any], missing: Any) -> None:
    try:
        labels = made([*WORDS, missing])
    except (TypeError, ValueError):
        pytest.skip("no such column")
    paths = [f"{index}.png" for index in range(4)]
    for work in (lambda: dataset_from_paths(paths, labels), lambda: dataset_from_arrays(PIXELS, labels)):
        with pytest.raises(DataError, match=r"1 of 4 labels are missing, the first at position 3 \((None|nan|<NA>)"):
            work()
    with pytest.raises(DataError, match="1 of 4 labels in y are missing, the first at position 3"):
        TransferClassifier().fit(paths, labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([*WORDS, np.nan]),
        pandas.Series([*WORDS, None]).astype(str).replace("None", "nan"),
        pandas.Series([*WORDS, pandas.NA], dtype="string").astype(str).to_numpy(),
        [*WORDS, pandas.NaT],
        np.ma.masked_array([1, 2, 1, 2], mask=[False, False, False, True]),
        np.array([1.0, 2.0, 1.0, np.nan]),
        pandas.Series([1, 2, 1, None], dtype="Int64"),
        polars.Series([1, 2, 1, None]),
        np.array(["2020-01-01", "2020-01-02", "2020-01-01", "NaT"], dtype="datetime64[D]"),
    ],
    ids=repr,
)
def test_what_becomes_of_missing_values_is_missing_too(labels: Any) -> None:
    with pytest.raises(DataError, match="1 of 4 labels are missing, the first at position 3"):
        dataset_from_arrays(PIXELS, labels)
    with pytest.raises(DataError, match="1 of 4 labels in y are missing"):
        TransferClassifier().fit(PIXELS, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*WORDS, ""], r"are missing, the first at position 3 \(''\)"),
        ([*WORDS, "  "], "are missing, the first at position 3"),
        ([["a"], ["b"], ["a"], ["b", None]], r"a list of labels holds a missing value: \['b', None\]"),
        ([["a"], ["b"], ["a"], ["b", float("nan")]], "a list of labels holds a missing value"),
        ([["a"], ["b"], ["a"], [["b"]]], "a label must be a name or a list of names"),
        ([*WORDS, object()], r"Unknown label type: .* hold object \(.*\); labels are texts or whole numbers"),
        ([*WORDS, {"a": 1}], "Unknown label type: .* hold dict"),
    ],
)
def test_labels_that_are_none_are_refused_alike(labels: Any, message: str) -> None:
    for work in (lambda: dataset_from_arrays(PIXELS, labels), lambda: TransferClassifier().fit(PIXELS, labels)):
        with pytest.raises(DataError, match=message):
            work()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([b"a", b"b", b"a", b"b"], ("a", "b")),
        (np.array([b"a", b"b", b"a", b"b"]), ("a", "b")),
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)] * 2, ("2020-01-01", "2020-01-02")),
        (np.array(["2020-01-01", "2020-01-02"] * 2, "datetime64[D]"), ("2020-01-01", "2020-01-02")),
        ([decimal.Decimal(1), decimal.Decimal(2)] * 2, ("1", "2")),
        ([np.array(["a", "c"]), np.array(["b"])] * 2, ("a", "b", "c")),
        (pandas.Series([np.array(["a", "c"]), np.array(["b"])] * 2), ("a", "b", "c")),
    ],
)
def test_labels_of_other_types_are_texts_or_lists(labels: Any, classes: tuple[str, ...]) -> None:
    assert dataset_from_arrays(PIXELS, labels).classes == classes
    if len(classes) == 2:
        assert TransferClassifier(head="centroid").fit(PIXELS, labels).classes_.tolist() == [*classes]


def test_classes_are_a_list() -> None:
    with pytest.raises(DataError, match=r"classes must be a list of names, got the text 'ab'. Put it into a list: \['ab'\]"):
        dataset_from_arrays(PIXELS, [*WORDS, "b"], classes="ab")


def test_the_text_nan_is_told_to_be_one() -> None:
    with pytest.raises(
        DataError, match=r"'nan', the text that NumPy and pandas make of a missing value; if it is a class, call it otherwise"
    ):
        checked_labels(np.array(["a", np.nan]), 2)
    assert checked_labels(["None", "NA", "nano"], 3) == ["None", "NA", "nano"]


@pytest.mark.parametrize("frame", [pandas.DataFrame({"path": WORDS, "label": WORDS}), polars.DataFrame({"path": WORDS, "label": WORDS})])
def test_a_table_is_refused_with_its_columns(frame: Any, run: Path) -> None:
    advice = r"must be a list, and a table came, with the columns path and label\. Give one column, as in {}\['path'\]\."
    for name, work in {
        "paths": lambda: dataset_from_paths(frame, WORDS), "labels": lambda: dataset_from_paths(WORDS, frame),
        "images": lambda: load(run).predict(frame), "X": lambda: TransferClassifier().fit(frame, WORDS),
        "y": lambda: TransferClassifier().fit(WORDS, frame), "groups": lambda: TransferClassifier().fit(WORDS, WORDS, groups=frame),
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=f"{name} {advice.format(name)}"):
            work()


@pytest.mark.filterwarnings("ignore:The labels are a matrix")
def test_a_table_of_indicators_is_a_matrix() -> None:
    dataset = dataset_from_arrays(PIXELS, pandas.get_dummies(pandas.Series(["cat", "dog", "cat", "cow"])))
    assert dataset.classes == ("cat", "cow", "dog")
    assert dataset.labels(1) == ("dog",)
    assert dataset_from_arrays(PIXELS, polars.DataFrame({"u": [1, 0, 1, 0], "v": [1, 1, 0, 0]})).labels(0) == ("u", "v")


def test_a_one_hot_matrix_is_told(tmp_path: Path, pictures: Path) -> None:
    hot = np.eye(2)[[0, 1, 0, 1]]
    with pytest.warns(RuntimeWarning, match=r"one 1 in each row.*labels\.argmax\(axis=1\)"):
        assert any("one 1 in each row" in note for note in dataset_from_arrays(PIXELS, hot).notes)
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=hot)
    assert any("one 1 in each row" in note for note in read_dataset(tmp_path / "a.npz").notes)
    paths = sorted((pictures / "rings").iterdir())[:10] + sorted((pictures / "checks").iterdir())[:10]
    with pytest.warns(RuntimeWarning, match="one 1 in each row"):
        TransferClassifier(head="centroid").fit(paths, np.eye(2)[[0] * 10 + [1] * 10])
    for table in (pandas.get_dummies(pandas.Series(["b", "a"])), polars.DataFrame({"a": [0, 1], "b": [1, 0]}), np.array([[0, 1], [1, 0]])):
        advice = one_hot_note(np.asarray(table), table, name="table").partition("give that: ")[2].removesuffix(".")
        assert list(eval(advice, {"table": table})) in (["b", "a"], [1, 0])
    assert one_hot_note(np.array([[1, 0], [1, 1]])) == ""
    assert one_hot_note(np.array([1, 0])) == ""


@pytest.mark.parametrize(
    "single",
    [
        "a.png", Path("a.png"), b"x", PIXELS[0], PIXELS[0].astype(float), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 1), np.uint8),
        Image.new("RGB", (9, 9)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_single_image_is_to_be_put_into_a_list(single: Any, run: Path) -> None:
    for work in (
        lambda: load(run).predict(single), lambda: TransferClassifier().fit(single, [0]), lambda: explain(run, single),
        lambda: dataset_from_arrays(single, [0]), lambda: dataset_from_paths(single, [0]),
    ):  # fmt: skip
        with pytest.raises(
            DataError, match=r"must be a list of images \(paths, bytes or arrays\), got a single one.*Put it into a list: \[image\]"
        ):
            work()


@pytest.mark.parametrize(
    ("array", "how"),
    [
        (PIXELS / 255, "(images * 255)"),
        (PIXELS.astype(np.float32), "(images)"),
        (PIXELS / 127.5 - 1, "((images + 1) * 127.5)"),
        (PIXELS.astype(np.uint16) * 16, "(images * (255 / 4095))"),
        (PIXELS.astype(np.int64) * 257, "(images * (255 / 65535))"),
        (PIXELS.astype(float) * 4, "(images * (255 / 1023))"),
        ((PIXELS - 100.0) / 50, "((images - images.min()) * (255 / (images.max() - images.min())))"),
        (PIXELS.astype(np.int64) << 20, "(images * (255 / images.max()))"),
    ],
)
def test_the_advice_fits_the_values_and_works(array: np.ndarray, how: str, run: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(run).predict(array)
    text = str(caught.value)
    code = text.partition("Convert them: ")[2].removesuffix(".")
    assert code == f"{how}.round().astype(np.uint8)"
    converted = eval(code, {"images": array, "np": np})
    assert len(checked_images(converted)) == 4
    assert converted.max() > 100
    with pytest.raises(DataError, match="Convert them: "):
        TransferClassifier().fit(array, [0, 1, 0, 1])
    with pytest.raises(DataError, match="Convert them: "):
        dataset_from_arrays(array, [0, 1, 0, 1])


def test_a_list_of_arrays_of_another_type_is_refused_with_advice(run: Path) -> None:
    for images in ([image / 255 for image in PIXELS], [image.astype(np.float32) - 100.5 for image in PIXELS]):
        with pytest.raises(DataError, match=r"images are arrays of float(64|32) from .*; expected uint8") as caught:
            load(run).predict(images)
        code = str(caught.value).partition("Convert them: ")[2].removesuffix(".")
        assert len(checked_images([eval(code, {"image": image, "np": np}) for image in images])) == 4


def test_truth_values_and_infinity_are_no_images() -> None:
    with pytest.raises(DataError, match=r"X are bool; expected uint8 from 0 to 255. Convert them: X.astype\(np.uint8\) \* 255"):
        image_array(np.ones((2, 4, 4), bool), name="X")
    with pytest.raises(DataError, match="float64, some of them not finite; expected uint8"):
        image_array(np.full((2, 4, 4), np.nan))


def test_gray_and_transparent_arrays_become_what_single_ones_do() -> None:
    for array in (PIXELS[..., 0], PIXELS[..., :1], np.concatenate([PIXELS, PIXELS[..., :1]], axis=3)):
        found = image_array(array)
        assert (found.shape, found.dtype) == ((4, 12, 10, 3), np.uint8)
    clear = np.zeros((2, 4, 4, 4), np.uint8)
    assert (image_array(clear) == 255).all()


def test_images_of_pillow_are_read_as_their_files_are(run: Path, pictures: Path, tmp_path: Path) -> None:
    opened, files = load(run), []
    base = Image.open(next((pictures / "rings").iterdir())).convert("RGB")
    for name, image in {"rgb": base, "gray": base.convert("L"), "palette": base.convert("P"), "clear": base.convert("RGBA")}.items():
        image.save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    deep = (np.asarray(base.convert("L")).astype(np.uint16) << 8) + 7
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(tmp_path / "turned.jpg", quality=100, exif=exif)
    files += [tmp_path / "deep.png", tmp_path / "turned.jpg"]
    images = [Image.open(file) for file in files]
    np.testing.assert_allclose(opened.predict(images).probabilities, opened.predict(files).probabilities, atol=0.02)
    labels = ["a", "b"] * 3
    TransferClassifier(head="centroid").fit(images, labels).predict(images)
    assert dataset_from_arrays(images[:4], labels[:4]).inputs.shape == (4, 48, 48, 3)
    assert [found.name for found in explain(opened, images[:1])] == list(opened.predict(images[:1]).labels)
    with pytest.raises(DataError, match=r"paths must be the names of files, got PngImageFile\. Images in memory: dataset_from_arrays"):
        dataset_from_paths(images, labels)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.png", None], r"X\[1\] is missing: None. .* or leave it out"),
        (pandas.Series(["a.png", pandas.NA], dtype=object), r"X\[1\] is missing: <NA>"),
        (["a.png", float("nan")], r"X\[1\] is missing: nan"),
        ([1, 2], r"X\[0\] is not an image: 1"),
        ({"a.png", "b.png"}, "X must be a list with one entry for each image, got set"),
        ({"a.png": 1}, "got dict"),
        (np.array([["a.png"]]), r"got <U5 \(1, 1\)"),
    ],
)
def test_what_is_no_image_is_named(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_images(images, name="X")


def test_tensors_are_arrays() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    assert np.array_equal(checked_images(torch.from_numpy(PIXELS)), PIXELS)
    assert list(checked_labels(torch.tensor([0, 1, 1, 0]), 4)) == [0, 1, 1, 0]
    with pytest.raises(DataError, match=r"Channels come last: use np\.moveaxis"):
        checked_images(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


@pytest.mark.parametrize("labels", ["abcd", {"a", "b"}, {"a": 1}, 7, (label for label in "abcd")])
def test_labels_that_are_no_list(labels: Any) -> None:
    with pytest.raises(DataError, match="labels must be a list with one entry for each image, got"):
        dataset_from_arrays(PIXELS, labels)


def test_numbers_with_fractions_are_no_classes() -> None:
    for work in (lambda: dataset_from_arrays(PIXELS, [0.1, 0.2, 0.1, 0.2]), lambda: TransferClassifier().fit(PIXELS, [0.1, 0.2, 0.1, 0.2])):
        with pytest.raises(DataError, match=r"are continuous numbers, such as 0\.1; classes are whole numbers or texts"):
            work()
    assert dataset_from_arrays(PIXELS, [1.0, 2.0, 1.0, 2.0]).classes == ("1", "2")


def test_an_image_without_a_group_is_a_group_of_its_own() -> None:
    groups, notes = checked_groups(["p", None, float("nan"), "p"], 4)
    assert groups == ["p", "image 1 (alone)", "image 2 (alone)", "p"]
    assert notes == ["2 images without a group: each is a group of its own."]
    assert dataset_from_arrays(PIXELS, [0, 1, 0, 1], groups=pandas.Series(["p", pandas.NA, pandas.NA, "p"])).groups.tolist() == groups
    assert entries(range(3), "x") == [0, 1, 2]
