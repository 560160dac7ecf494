"""Arrays, NumPy archives and named public sets."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from headstart.data import dataset_from_arrays, dataset_from_paths, read_dataset
from headstart.data.named import TORCHVISION
from headstart.errors import DataError, MissingExtraError, ParameterError

PIXELS = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)


def test_arrays():
    data = dataset_from_arrays(PIXELS, ["b", "a", "b", "b"], parts=["train", "train", "test", "val"], groups=[1, 2, 3, 3])
    assert data.classes == ("a", "b")
    assert data.targets.array.tolist() == [1, 0, 1, 1]
    assert isinstance(data.inputs, np.ndarray)
    assert np.array_equal(data.inputs, PIXELS)
    assert data.names() == ("array[0]", "array[1]", "array[2]", "array[3]")
    assert data.groups.tolist() == ["1", "2", "3", "3"]
    assert np.array_equal(data.take([2]).inputs, PIXELS[2:3])


def test_gray_and_other_integers():
    gray = PIXELS[..., 0]
    for images in (gray, gray[..., None], gray.astype(np.int64), gray.tolist()):
        data = dataset_from_arrays(images, [0, 1, 0, 1])
        assert isinstance(data.inputs, np.ndarray)
        assert data.inputs.dtype == np.uint8
        assert np.array_equal(data.inputs, np.repeat(gray[..., None], 3, axis=3))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            PIXELS / 255,
            r"images are float64 from 0 to 1; expected uint8 from 0 to 255\. Convert them: \(images \* 255\)\.round",
        ),
        (PIXELS.astype(np.int32) * 300, r"expected uint8 from 0 to 255. Convert them: \(images \* \(255 / "),
        (PIXELS.astype(np.int32) - 5, "images are int32 from -5"),
        (np.moveaxis(PIXELS, -1, 1), r"shape \(4, 3, 5, 6\); expected \(n, height, width, 3\).* Channels come last: use np.moveaxis"),
        (PIXELS[0, 0], r"shape \(6, 3\)"),
        (PIXELS[0], r"got a single one of the shape \(5, 6, 3\)\. Put it into a list: \[image\]"),
        ([PIXELS[0], PIXELS[1, :3]], "the images are not one array: they differ in size or type"),
        (np.zeros((4, 5, 6, 2), np.uint8), r"shape \(4, 5, 6, 2\)"),
    ],
)
def test_arrays_that_are_no_images(images, words):
    with pytest.raises(DataError, match=words):
        dataset_from_arrays(images, [0, 1, 0, 1][: len(images)])


def test_labels_of_several_kinds():
    matrix = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    for labels in (matrix, matrix.astype(bool)):
        data = dataset_from_arrays(PIXELS, labels, classes=["sea", "sky"])
        assert data.targets.array.tolist() == matrix.astype(bool).tolist()
        assert data.classes == ("sea", "sky")
    assert dataset_from_arrays(PIXELS, [["x", "y"], {"x"}, (), ["y"]]).targets.array.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]
    assert dataset_from_arrays(PIXELS, np.array([[3], [1], [3], [1]])).classes == ("1", "3")
    positions = dataset_from_arrays(PIXELS, [1, 0, 1, 1], classes=["dog", "cat"])
    assert [positions.labels(i) for i in range(4)] == [("cat",), ("dog",), ("cat",), ("cat",)]
    assert dataset_from_arrays(PIXELS, np.array([1.0, 2.0, 1.0, 2.0])).classes == ("1", "2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [0, 1]}, "4 images but 2 labels; one for each image is needed"),
        ({"labels": ["a", "", "b", "b"]}, "1 of . labels are missing, the first at position 1"),
        ({"labels": np.full((4, 2), 0.5)}, "a matrix of labels must hold 0 and 1 only"),
        ({"labels": np.zeros((4, 2)), "classes": ["a"]}, "has 2 columns, but there are 1 classes"),
        ({"labels": np.zeros((4, 2, 2))}, r"labels have the shape \(4, 2, 2\)"),
        ({"labels": [0, 1, 0, 1], "parts": ["train", "train", "exam", "test"]}, "parts must be train, val or test; got 'exam'"),
        ({"labels": [0, 1, 0, 1], "groups": [1]}, "4 images but 1 groups"),
        ({"labels": ["cat", "cow", "cat", "cat"], "classes": ["cat", "crow"]}, r"'cow' \(1 image\).*Did you mean crow"),
        ({"labels": [(), (), (), ()]}, "no image of arrays has a label"),
    ],
)
def test_labels_that_do_not_fit(arguments, words):
    with pytest.raises(DataError, match=words):
        dataset_from_arrays(PIXELS, **arguments)


def test_no_images():
    with pytest.raises(DataError, match="there are no images in paths"):
        dataset_from_paths([], [])


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
    ],
)
def test_numpy_archive(tmp_path, keys):
    path = tmp_path / "data.npz"
    np.savez(path, **dict(zip(keys, (PIXELS, [[0], [1], [0], [1]], PIXELS[:2], [[1], [0]]), strict=True)))
    data = read_dataset(path)
    assert data.parts.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.targets.array.tolist() == [0, 1, 0, 1, 1, 0]


def test_numpy_archive_without_parts_and_with_separate_test_data(tmp_path):
    np.savez(tmp_path / "a.npz", X=PIXELS, y=["u", "v", "u", "v"])
    np.savez(tmp_path / "b.npz", images=PIXELS[:2], labels=["v", "u"])
    np.savez(tmp_path / "c.npz", images=PIXELS[:2, :3], labels=["v", "u"])
    assert read_dataset(tmp_path / "a.npz").parts.tolist() == [""] * 4
    assert read_dataset(tmp_path / "a.npz", test=tmp_path / "b.npz").targets.array.tolist() == [0, 1, 0, 1, 1, 0]
    with pytest.raises(DataError, match="arrays of different height and width"):
        read_dataset(tmp_path / "a.npz", test=tmp_path / "c.npz")
    (tmp_path / "d" / "u").mkdir(parents=True)
    (tmp_path / "d" / "u" / "1.jpg").touch()
    with pytest.raises(DataError, match="must both be files or both be arrays"):
        read_dataset(tmp_path / "a.npz", test=tmp_path / "d")
    with pytest.raises(ParameterError, match=r"works on file names, and .* has none"):
        read_dataset(tmp_path / "a.npz", group_from="x")


def test_numpy_archives_that_cannot_be_used(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="is not a NumPy archive that can be read"):
        read_dataset(path)
    np.savez(path, pictures=PIXELS, y=[0, 1, 0, 1])
    with pytest.raises(DataError, match=r"holds 'pictures', 'y'; expected images and labels \(or X and y\)"):
        read_dataset(path)
    np.savez(path, images=PIXELS, labels=np.array([{}, 1, 2, 3], object))
    with pytest.raises(DataError, match="It holds Python objects, which are not loaded"):
        read_dataset(path)


# --- named public sets: the packages are replaced by small ones of the same shape; nothing is downloaded ---


def png(shade: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def fake_torchvision(monkeypatch):
    sets = types.ModuleType("torchvision.datasets")
    package = types.ModuleType("torchvision")
    package.datasets = sets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", sets)
    return sets


def test_torchvision_set_with_files(tmp_path, fake_torchvision):
    asked = []

    class Flowers102:
        classes = ("rose", "tulip")

        def __init__(self, root, split, download):
            asked.append((split, download))
            self._image_files = [Path(root) / f"{split}{i}.jpg" for i in range(2)]
            self._labels = [0, 1]

    fake_torchvision.Flowers102 = Flowers102
    said: list[str] = []
    data = read_dataset("torchvision:Flowers102", cache=tmp_path, announce=said.append)
    assert asked == [("train", True), ("val", True), ("test", True)]
    assert data.parts.tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert data.classes == ("rose", "tulip")
    assert said == [f"torchvision:Flowers102: what is not yet in {tmp_path / 'datasets' / 'torchvision'} is downloaded from its publisher."]


def test_torchvision_set_with_an_array(tmp_path, fake_torchvision, capsys):
    class SVHN:
        def __init__(self, root, split, download):
            self.data = np.moveaxis(PIXELS[:, :, :5], -1, 1)  # SVHN keeps channels first
            self.labels = np.array([1, 0, 1, 1])

    fake_torchvision.SVHN = SVHN
    data = read_dataset("torchvision:SVHN", cache=tmp_path)
    assert isinstance(data.inputs, np.ndarray)
    assert np.array_equal(data.inputs[:4], PIXELS[:, :, :5])
    assert data.classes == ("0", "1")
    assert "is downloaded from its publisher" in capsys.readouterr().err


def test_torchvision_set_that_only_gives_pictures(tmp_path, fake_torchvision):
    from PIL import Image

    class Caltech101:
        categories = ("ant", "bee")

        def __init__(self, root, download):
            pass

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return Image.new("L", (4, 3), 9), i

    fake_torchvision.Caltech101 = Caltech101
    for _ in range(2):  # the second time the files are there
        data = read_dataset("torchvision:Caltech101", cache=tmp_path, announce=str)
        assert [path.name for path in data.inputs] == ["000000.png", "000001.png"]
        assert all(path.is_file() for path in data.inputs)
        assert data.classes == ("ant", "bee")


def test_torchvision_errors(tmp_path, fake_torchvision, monkeypatch):
    class MNIST:
        def __init__(self, root, train, download):
            raise RuntimeError("no route to host")

    fake_torchvision.MNIST = MNIST
    with pytest.raises(DataError) as caught:
        read_dataset("torchvision:MNIST", cache=tmp_path, announce=str)
    assert "torchvision:MNIST could not be downloaded (RuntimeError: no route to host)" in str(caught.value)
    assert "check the name and the internet connection, or copy it into" in str(caught.value)
    with pytest.raises(DataError, match=r"torchvision:Flower102 is not known\. Did you mean Flowers102"):
        read_dataset("torchvision:Flower102")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"Reading torchvision:MNIST .* pip install 'headstart\[torch\]'"):
        read_dataset("torchvision:MNIST", cache=tmp_path)


class Feature:
    """Stands for a feature type of the package `datasets`."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


class Image(Feature):
    """`datasets.Image`."""


class ClassLabel(Feature):
    """`datasets.ClassLabel`."""


class Rows:
    """Stands for one split of a hub data set."""

    def __init__(self, features, rows):
        self.features = features
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def cast_column(self, name, feature):
        assert feature.decode is False
        return self

    def select_columns(self, names):
        return [{name: row[name] for name in names} for row in self.rows]


def fake_hub(monkeypatch, load):
    hub = types.ModuleType("datasets")
    hub.load_dataset = load  # type: ignore[attr-defined]
    hub.Image = Image  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", hub)


def test_hub_set(tmp_path, monkeypatch):
    features = {"image": Image(), "labels": ClassLabel(names=["cat", "dog"])}
    outside = tmp_path / "own.jpg"
    outside.write_bytes(png(9))
    splits = {
        "train": Rows(
            features, [{"image": {"bytes": png(1), "path": "a.png"}, "labels": 1}, {"image": {"bytes": png(2), "path": None}, "labels": 0}]
        ),
        "validation": Rows(features, [{"image": {"bytes": None, "path": str(outside)}, "labels": 1}]),
        "test": Rows(features, [{"image": {"bytes": png(3), "path": "c.png"}, "labels": -1}]),
        "unsupervised": Rows(features, []),
    }
    asked = []

    def load(*names, cache_dir):
        asked.append(names)
        return splits

    fake_hub(monkeypatch, load)
    data = read_dataset("hf:owner/name:config", cache=tmp_path, announce=str)
    assert asked == [("owner/name", "config")]
    assert data.parts.tolist() == ["train", "train", "val"]
    assert [data.labels(i) for i in range(3)] == [("dog",), ("cat",), ("dog",)]
    assert data.inputs[0].read_bytes() == png(1)  # the original bytes, not encoded again
    assert data.inputs[2] == outside
    assert any("'unsupervised' is neither" in note for note in data.notes)
    assert any("1 images without a label in the split 'test'" in note for note in data.notes)


def test_hub_set_with_several_labels(tmp_path, monkeypatch):
    features = {"picture": Image(), "tags": [ClassLabel(names=["a", "b"])]}
    rows = Rows(features, [{"picture": {"bytes": png(i), "path": ""}, "tags": tags} for i, tags in enumerate([[0, 1], [], [1]])])
    fake_hub(monkeypatch, lambda *_, cache_dir: {"train": rows})
    data = read_dataset("hf:x/y", cache=tmp_path, announce=str)
    assert data.targets.array.tolist() == [[True, True], [False, False], [False, True]]
    assert data.parts.tolist() == [""] * 3  # a single split says nothing


@pytest.mark.parametrize("listed", [False, True])
def test_hub_set_with_boxes(tmp_path, monkeypatch, listed):
    objects = {"bbox": Feature(feature=Feature()), "category": ClassLabel(names=["cat", "dog"])}
    features = {"image": Image(), "objects": [objects] if listed else Feature(feature=objects)}
    boxes = [[([[1, 0, 2, 2], [0, 0, 4, 3]], [1, 0])], [([], [])]]
    rows = []
    for i, ((sides, labels),) in enumerate(boxes):
        of = {"bbox": sides, "category": labels}
        several = [{"bbox": side, "category": label} for side, label in zip(sides, labels, strict=True)]
        rows.append({"image": {"bytes": png(i), "path": "a.png"}, "objects": several if listed else of})
    fake_hub(monkeypatch, lambda *_, cache_dir: {"train": Rows(features, rows)})
    data = read_dataset("hf:x/y", cache=tmp_path, announce=str)
    assert data.classes == ("cat", "dog")
    assert data.targets.boxes.tolist() == [[1, 0, 3, 2], [0, 0, 4, 3]]
    assert data.targets.labels.tolist() == [1, 0]
    assert data.targets.starts.tolist() == [0, 2, 2]
    assert data.targets.ids == (0, 1)


def test_hub_errors(tmp_path, monkeypatch):
    def offline(*_, cache_dir):
        raise ConnectionError("Couldn't reach the Hub")

    fake_hub(monkeypatch, offline)
    with pytest.raises(DataError, match=r"hf:x/y could not be downloaded \(ConnectionError: Couldn't reach the Hub\)\. .*connection"):
        read_dataset("hf:x/y", cache=tmp_path, announce=str)
    fake_hub(monkeypatch, lambda *_, cache_dir: {"train": Rows({"text": Feature(), "label": ClassLabel(names=["a"])}, [])})
    with pytest.raises(DataError, match="hf:x/y has no column of images; its columns are 'text', 'label'"):
        read_dataset("hf:x/y", cache=tmp_path, announce=str)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"Reading hf:x/y .* pip install 'headstart\[hub\]'"):
        read_dataset("hf:x/y", cache=tmp_path)


@pytest.mark.torch
def test_the_table_of_torchvision_sets_is_true():
    sets = pytest.importorskip("torchvision.datasets")
    import inspect

    for name, parts in TORCHVISION.items():
        accepted = inspect.signature(getattr(sets, name)).parameters
        assert {"root", "download"} <= set(accepted)
        for _, arguments in parts:
            assert set(arguments) <= set(accepted)
