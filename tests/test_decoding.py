"""One decoder: what Headstart makes of a file, and what the programs that it prints make of it."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from encoded_images import cut_out, encoded, every_mode, png, turned
from headstart import FitSettings, TransferClassifier, check, dataset_from_arrays, fit, load, read_dataset
from headstart.data.named import torchvision_samples
from headstart.modalities.image import read_image
from headstart.modalities.image.levels import common_levels, levels_note
from headstart.modalities.image.rgb import read_rgb, upright_rgb
from headstart.progress import Listener

PICTURE = draw(0, 3, side=40)[:, :30]


@pytest.mark.parametrize(("name", "data"), list(every_mode(PICTURE)), ids=lambda value: value if isinstance(value, str) else "")
def test_the_decoder_of_the_programs_is_that_of_headstart(name: str, data: bytes) -> None:
    ours = read_image(data).astype(int)
    assert ours.shape == PICTURE.shape
    tolerance = 2 if name.endswith("jpeg") else 0  # of two builds of libjpeg-turbo
    assert np.abs(read_rgb(data) - ours).max() <= tolerance
    assert ours.std() > 20


def test_sets_of_pillow_images_are_saved_as_they_are_decoded(tmp_path: Path) -> None:
    images = [data for name, data in every_mode(PICTURE) if not name.startswith("long")]  # of that Pillow itself makes no image

    class Set:
        """What torchvision gives whose samples are no files."""

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(io.BytesIO(images[index])), index

    saved, numbers = torchvision_samples(Set(), tmp_path)
    assert numbers == list(range(len(images)))
    for path, data in zip(saved, images, strict=True):
        np.testing.assert_allclose(read_image(path).astype(int), read_image(data), atol=2)


def test_an_image_of_pillow_in_memory_becomes_what_its_file_becomes() -> None:
    layered = Image.fromarray(cut_out(PICTURE))
    np.testing.assert_array_equal(upright_rgb(layered), read_image(encoded(layered, "PNG")))
    stored = turned(PICTURE, 8)
    stored.getexif()[0x0112] = 8
    np.testing.assert_array_equal(upright_rgb(stored), PICTURE)


def deep_set(folder: Path, make: Callable[[np.ndarray], bytes], *, count: int = 8, suffix: str = "png") -> Path:
    """A folder of two classes of gray pictures, (H, W) from 0 to 1, each written by `make`."""
    for kind, name in enumerate(("rings", "stripes")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.{suffix}").write_bytes(make(draw(kind, 50 + 10 * kind + index).mean(axis=2) / 255))
    return folder


DEEP: dict[str, tuple[Callable[[np.ndarray], bytes], tuple[float, float] | None]] = {
    "12 bits": (lambda gray: encoded(Image.fromarray((gray * 4095).astype(np.uint16)), "PNG"), (0, 4095)),
    "10 bits, TIFF": (lambda gray: encoded(Image.fromarray((gray * 1023).astype(np.uint16)), "TIFF"), (0, 1023)),
    "14 bits, colour": (lambda gray: png(np.repeat((gray * 16383).astype(np.uint16)[:, :, None], 3, axis=2)), (0, 16383)),
    "8 bits": (lambda gray: encoded(Image.fromarray((gray * 255).astype(np.uint16)), "PNG"), (0, 255)),
    "16 bits": (lambda gray: encoded(Image.fromarray((gray * 65535).astype(np.uint16)), "PNG"), None),
    "12 bits above an offset": (lambda gray: encoded(Image.fromarray((61440 + gray * 4095).astype(np.uint16)), "PNG"), (61440, 65535)),
    "integers": (lambda gray: encoded(Image.fromarray((gray * 3000).astype(np.int32)), "TIFF"), (0, 4095)),
    "Hounsfield units": (lambda gray: encoded(Image.fromarray((gray * 3000 - 1000).astype(np.int32)), "TIFF"), (-1000, 2000)),
    "float to 1": (lambda gray: encoded(Image.fromarray(gray.astype(np.float32)), "TIFF"), (0, 1)),
    "float to 4000": (lambda gray: encoded(Image.fromarray((gray * 4000).astype(np.float32)), "TIFF"), (0, 4095)),
    "of 8 bits": (lambda gray: encoded(Image.fromarray((gray * 255).astype(np.uint8)), "PNG"), None),
}


@pytest.mark.parametrize("kind", DEEP)
def test_levels_are_what_the_images_of_a_set_use(tmp_path: Path, kind: str) -> None:
    make, expected = DEEP[kind]
    data = read_dataset(deep_set(tmp_path, make))
    found = data.levels
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected, abs=200 if expected[0] else 0)
        assert [finding.message for finding in check(data).findings if finding.kind == "levels"] == [levels_note(found)]
    assert not [finding for finding in check(data).findings if finding.kind == "faint"]
    picture = draw(0, 50).mean(axis=2)
    decoded = read_image(data.inputs[0], levels=found)[:, :, 0].astype(float)
    assert np.corrcoef(picture.ravel(), decoded.ravel())[0, 1] > 0.995
    assert np.ptp(decoded) > 60


def test_levels_are_kept_in_the_run_and_used_by_all_that_predict(tmp_path: Path, cache: Path) -> None:
    data = deep_set(tmp_path / "data", DEEP["12 bits"][0], count=12)
    lines: list[str] = []

    class Lines(Listener):
        def say(self, message: str) -> None:
            lines.append(message)

    fit(data, out=tmp_path / "run", settings=FitSettings(head="centroid", cache=cache), listener=Lines())
    assert levels_note((0, 4095)) in lines
    run = load(tmp_path / "run")
    assert run.preprocessing.levels == (0, 4095)
    files = sorted(data.rglob("*.png"))
    expected = run.predict(files)
    labels = [run.classes[row.argmax()] for row in expected.probabilities]
    assert labels == [path.parent.name for path in files]
    with pytest.warns(RuntimeWarning, match=r"scaled from 0\.\.4095"):
        estimator = TransferClassifier(head="centroid", cache=cache).fit(files, labels)
    assert estimator.extractor_.preprocessing.levels == (0, 4095)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(files), labels)


def test_check_says_that_images_are_nearly_black(tmp_path: Path) -> None:
    data = replace(read_dataset(deep_set(tmp_path, DEEP["12 bits"][0])), given_levels=(0, 65535))
    found = [one for one in check(data).findings if one.kind == "faint"]
    assert [(one.severity, one.count) for one in found] == [("warning", 16)]
    assert found[0].examples[0].startswith("rings/0.png: values from ")


def test_hot_pixels_do_not_make_the_others_black(tmp_path: Path) -> None:
    def with_a_hot_pixel(gray: np.ndarray) -> bytes:
        samples = (gray * 4095).astype(np.uint16)
        samples[3, 3] = 65535
        return encoded(Image.fromarray(samples), "PNG")

    found = read_dataset(deep_set(tmp_path, with_a_hot_pixel)).common_levels
    assert (found.levels, found.clipped) == ((0, 4095), ())


def test_a_few_images_do_not_make_the_others_black(tmp_path: Path, cli: Callable[..., Any]) -> None:
    data = deep_set(tmp_path / "data", DEEP["12 bits"][0])
    (data / "rings" / "9.png").write_bytes(DEEP["16 bits"][0](draw(0, 9).mean(axis=2) / 255))
    warned = f"1 of 17 images are much brighter than the others, and are white above 4095: {data}/rings/9.png."
    done = cli("fit", data, "--head", "centroid", "--out", "run", "-q")
    assert (done.code, load("run").preprocessing.levels, warned in done.err) == (0, (0, 4095), True)
    assert warned in cli("check", data).out
    done = cli("fit", data, "--head", "centroid", "--out", "run", "--levels", "0,16383", "-q")
    assert (done.code, load("run").preprocessing.levels, "brighter" in done.err) == (0, (0, 16383), False)
    assert "--levels takes two numbers, such as 0,4095; got 'x'" in cli("fit", data, "--levels", "x").err
    assert "--levels must be two numbers, the smaller first, got (5.0, 1.0)" in cli("fit", data, "--levels", "5,1").err
    half = deep_set(tmp_path / "half", DEEP["12 bits"][0])
    shutil.copytree(deep_set(tmp_path / "bright", DEEP["16 bits"][0]), half / "more")
    assert read_dataset(half).common_levels.clipped == ()


def test_16_bits_with_opacity_and_images_in_memory_have_levels_too() -> None:
    gray = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    opacity = np.where(np.arange(64) < 8, 0, 65535).astype(np.uint16) * np.ones((64, 1), np.uint16)
    file = png(np.dstack([gray, opacity]))
    assert common_levels([file]).levels == (0, 4095)
    expected = np.where(opacity == 0, 255, gray * (255 / 4095))
    np.testing.assert_allclose(read_image(file, levels=(0, 4095))[:, :, 0], expected, atol=1)
    images = [Image.fromarray(gray), Image.fromarray(gray.T.copy())]
    assert common_levels(images).levels == (0, 4095)
    with pytest.warns(RuntimeWarning, match=r"scaled from 0\.\.4095"):
        assert dataset_from_arrays(images, ["a", "b"]).inputs.max() == 255


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("white on nothing", np.dstack([np.full((48, 48, 3), 255, np.uint8), (draw(0, 1)[:, :, :1] > 120) * np.uint8(255)])),
        ("one colour", np.full((48, 48, 3), 90, np.uint8)),
    ],
)
def test_check_says_that_an_image_is_of_one_colour(pictures: Path, tmp_path: Path, name: str, picture: np.ndarray) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    Image.fromarray(picture).save(data / "rings" / f"{name}.png")
    found = [one for one in check(read_dataset(data)).findings if one.kind == "faint"]
    assert [(one.severity, one.count) for one in found] == [("note", 1)]
    assert found[0].examples[0].startswith(f"rings/{name}.png: values from ")
