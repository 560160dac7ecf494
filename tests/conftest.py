"""Fixtures shared by all tests: where the measurement data lie, and a few small real images."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from headstart import engine
from headstart.backbones import Backbone, load_backbone
from headstart.report import run_report
from headstart.sections import Charts, Matrix

CARDS_OF, PNG_OF = run_report.cards_of, run_report.png
engine._opened = functools.lru_cache(maxsize=12)(engine._opened.__wrapped__)  # compiling takes half a second, and there are many runs

settings.register_profile("suite", deadline=None, max_examples=30)  # a busy machine is not a failure; where more pay, a test says so
settings.load_profile("suite")


LONGEST = (
    "test_segmentation_training",
    "test_mapped",
    "test_export",
    "test_docs",
    "test_cli_process",
    "test_fine_tune",
    "test_fitting_training",
    "test_entrances",
    "test_bundle",
    "test_strategy",
    "test_backbones_torch",
    "test_stages",
    "test_explain",
    "test_lr_find",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one when the others have nothing more to do."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through PyTorch and all the tests time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measurement data; tests that need it are skipped, with the reason, where it is absent."""
    folder = Path(os.environ.get("HEADSTART_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"measurement data are not at {folder}; set HEADSTART_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole test run, so that the embedded backbone is converted once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of the person who runs it."""
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))


_drawn: dict[type, bytes] = {}


def _first_of_its_kind(block: Charts | Matrix, *, heading: str = "") -> bytes:
    """The first PNG of charts, or of a matrix, that this process has drawn."""
    if type(block) not in _drawn:
        _drawn[type(block)] = PNG_OF(block, heading=heading)
    return _drawn[type(block)]


@pytest.fixture(scope="module", autouse=True)
def _plain_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reports show no test images and their PNG files are drawn once, which together take half the time of a small fit; in files that
    are marked `cards` reports are as users have them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("cards") is None:
            patch.setattr(run_report, "cards_of", lambda *_, **__: {})
            patch.setattr(run_report, "png", _first_of_its_kind)
        yield


@pytest.fixture(scope="session")
def backbone(cache: Path) -> Backbone:
    """EfficientNet-Lite0 with its ImageNet weights."""
    return load_backbone("efficientnet_lite0", cache=cache, announce=lambda message: None)


def draw(kind: int, seed: int, *, side: int = 48) -> np.ndarray:
    """A small picture of one of three kinds that are easy to tell apart: rings, stripes, checks; colours and places vary."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + random.uniform(-8, 8, (2, 1, 1))
    period = random.uniform(5, 9)
    wave = (np.hypot(y - side / 2, x - side / 2), x + 0 * y, np.maximum(np.sin(x / period * 6), np.sin(y / period * 6)) * period)[kind]
    pattern = (np.sin(wave / period * 6) > 0)[:, :, None] if kind < 2 else (wave > 0)[:, :, None]
    one, two = random.integers(0, 110, 3), random.integers(140, 255, 3)
    noise = random.normal(0, 6, (side, side, 3))
    return np.clip(np.where(pattern, one, two) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 x 20 pictures, a folder a class."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind, name in enumerate(("rings", "stripes", "checks")):
        (folder / name).mkdir()
        for index in range(20):
            Image.fromarray(draw(kind, 100 * kind + index)).save(folder / name / f"{name} {index:02d}.png")
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Run a command in an empty folder; the result has `code`, `out` (stdout) and `err` (stderr)."""
    from typer.testing import CliRunner

    from headstart.cli import application

    importlib.import_module("headstart.cli.application").register_commands()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str | Path) -> SimpleNamespace:
        given = [str(argument) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["headstart", *given])
        done = CliRunner().invoke(application, given)
        assert "Traceback" not in done.output
        return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)

    return run


@pytest.fixture(scope="session")
def _fitted(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from headstart import FitSettings, fit

    folder = tmp_path_factory.mktemp("runs") / "pictures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_report, "cards_of", CARDS_OF)
        patch.setattr(run_report, "png", PNG_OF)
        fit(pictures, out=folder, settings=FitSettings(head="centroid", cache=cache))
    return folder


@pytest.fixture(scope="module")
def run(_fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fitted on the pictures, for one file of tests: as far from the pictures as the one that was written, whose list
    names them relative to itself.
    """
    return shutil.copytree(_fitted, tmp_path_factory.mktemp("runs") / "pictures")


@pytest.fixture
def photo(pictures: Path) -> Path:
    """One of the pictures: rings."""
    return pictures / "rings" / "rings 00.png"
