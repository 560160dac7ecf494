"""Pictures of predictions in a folder: their names, what is not replaced, overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.batch.pictures import picture_stems, predict_pictures
from headstart.errors import DataError, ParameterError
from headstart.files import is_ours
from headstart.modalities.image import upright_size
from headstart.progress import Listener
from headstart.records import Record
from headstart.tasks import FileOptions
from headstart.tasks.segmentation.predictions import MaskPredictions, files, records, suffixes

CLASSES = ("background", "person")


class _Task:
    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        return suffixes(overlay=asked.overlay)

    def files(self, *given: object) -> dict[str, bytes]:
        *first, asked = given
        assert isinstance(asked, FileOptions)
        return files(*first, clear=0, overlay=asked.overlay)  # type: ignore[arg-type]

    def files_of_all(self, asked: FileOptions, state: object) -> dict[str, bytes]:
        return {}


class _Pictureless(_Task):
    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        return ()


class _Run:
    """The right half of every image is a person."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.manifest = type("Manifest", (), {"task": "made up", "state": {}})
        self.preprocessing = type("Preprocessing", (), {"levels": None})

    def predict(self, paths: list[Path], **_: object) -> MaskPredictions:
        from headstart.errors import ImageError

        kept, sizes, refused, refused_at = [], [], [], []
        for place, path in enumerate(paths):
            try:
                sizes.append(upright_size(path))
                kept.append(place)
            except ImageError as error:
                refused.append(error)
                refused_at.append(place)
        logits = np.zeros((len(kept), 2, 2, 2), np.float32)
        logits[:, 1, :, 1], logits[:, 0, :, 0] = 3, 3
        return MaskPredictions(
            outputs={"logits": logits}, kept=np.array(kept, np.int64), sizes=np.array(sizes, np.int64).reshape(-1, 2), classes=CLASSES,
            refused=tuple(refused), refused_at=tuple(refused_at),
        )  # fmt: skip

    def records(self, names: list[Path], predictions: MaskPredictions, **_: object) -> list[Record]:
        return records(names, predictions)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.jpg", (20, 10)), ("more/a.png", (8, 8)), ("more/b.png", (6, 4))):
        Image.new("RGB", size, (200, 200, 200)).save(folder / name)
    return folder


def _predict(photos: Path, out: Path, task: _Task | None = None, **options: object):  # type: ignore[no-untyped-def]
    return predict_pictures(_Run(task or _Task()), [photos], out=out, **options)  # type: ignore[arg-type]


def test_a_png_for_each_image_below_the_same_folders(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    result = _predict(photos, out)
    assert sorted(str(file.relative_to(out)) for file in result.files) == ["a.png", "more/a.png", "more/b.png"]
    picture = Image.open(out / "a.png")
    assert (picture.mode, picture.size) == ("P", (20, 10))
    assert (np.asarray(picture) == (np.arange(20) >= 10)).all()
    assert result.predicted == len(result.records) == 3
    assert is_ours(out / "a.png")
    again = _predict(photos, out)  # its own files are written anew
    assert again.files == result.files


def test_overlays_show_the_image(photos: Path, tmp_path: Path) -> None:
    _predict(photos, tmp_path / "masks", asked=FileOptions(overlay=True))
    picture = np.asarray(Image.open(tmp_path / "masks" / "a_overlay.jpg").convert("RGB")).astype(int)
    assert picture.shape == (10, 20, 3)
    assert np.abs(picture[:, :8] - 200).max() < 12  # the first class stays clear
    assert np.abs(picture[:, 12:].mean(axis=(0, 1)) - [143, 190, 216]).max() < 12
    assert is_ours(tmp_path / "masks" / "a_overlay.jpg")
    _predict(photos, tmp_path / "masks", asked=FileOptions(overlay=True))


def test_an_image_that_cannot_be_read_is_told(photos: Path, tmp_path: Path) -> None:
    (photos / "more" / "c.jpg").write_bytes(b"no image")
    said: list[str] = []

    class Told(Listener):
        def warn(self, message: str) -> None:
            said.append(message)

    listener = Told()
    result = _predict(photos, tmp_path / "masks", listener=listener)
    assert (result.predicted, len(result.records)) == (3, 4)
    assert "1 of 4 images cannot be read and have no prediction" in said[0]


def test_two_images_that_differ_in_their_suffix_keep_it(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(photos / "a.png")
    result = _predict(photos, tmp_path / "masks")
    assert sorted(file.name for file in result.files) == ["a.jpg.png", "a.png", "a.png.png", "b.png"]


def test_images_of_one_name_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"Two of the images are called a\.jpg"):
        picture_stems(["a.jpg", "a.jpg"])


def test_an_image_is_not_replaced_by_its_mask(photos: Path) -> None:
    with pytest.raises(ParameterError, match=r"a\.png is one of the images, and would be replaced"):
        _predict(photos, photos)


def test_a_file_of_someone_else_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    Image.new("L", (5, 5)).save(out / "a.png")
    with pytest.raises(ParameterError, match="Headstart did not write it"):
        _predict(photos, out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ParameterError, match=r"is a file\. Give the name of a folder"):
        _predict(photos, tmp_path / "file")


def test_a_task_without_pictures_says_what_to_do(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"the task made up predicts none. For a table add --batch"):
        _predict(photos, tmp_path / "masks", _Pictureless())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        _predict(tmp_path / "nothing", tmp_path / "masks")
