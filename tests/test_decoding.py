"""One decoder: what Headstart makes of a file, and what the programs that it prints make of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from encoded_images import cut_out, encoded, every_mode, turned
from headstart import load
from headstart.data.named import torchvision_samples
from headstart.export import export, snippet
from headstart.modalities.image import read_image
from headstart.modalities.image.rgb import read_rgb, upright_rgb

PICTURE = draw(0, 3, side=40)[:, :30]


@pytest.mark.parametrize(("name", "data"), list(every_mode(PICTURE)), ids=lambda value: value if isinstance(value, str) else "")
def test_the_decoder_of_the_programs_is_that_of_headstart(name: str, data: bytes) -> None:
    ours = read_image(data).astype(int)
    assert ours.shape == PICTURE.shape
    tolerance = 2 if name.endswith("jpeg") else 0  # of two builds of libjpeg-turbo
    assert np.abs(read_rgb(data) - ours).max() <= tolerance
    assert ours.std() > 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("modes")
    for kind in range(3):
        for name, data in every_mode(draw(kind, 70 + kind)):
            (folder / f"{kind} {name}").write_bytes(data)
    return sorted(folder.iterdir())


def test_the_python_program_predicts_what_the_run_predicts(run: Path, files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    opened = load(run)
    export(opened, tmp_path / "pictures.onnx", images=2)
    blocked = "import sys\nsys.modules['headstart'] = None\n"
    (tmp_path / "classify.py").write_text(blocked + snippet("python", opened, file="pictures.onnx"))
    done = subprocess.run([sys.executable, "classify.py", *files], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = opened.predict(files)
    lines = done.stdout.splitlines()
    assert len(expected) == len(lines) == len(files)
    for path, line, probabilities in zip(files, lines, expected.probabilities, strict=True):
        label, probability = line.removeprefix(f"{path}  ").split("  ")[:2]
        assert label == opened.classes[probabilities.argmax()], path.name
        assert float(probability) == pytest.approx(probabilities.max(), abs=1e-3 if path.suffix != ".jpeg" else 0.02), path.name


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
