"""Engines against each other, and what they promise: order, bounded memory, results that do not depend on the neighbours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import Backbone
from headstart.engine import ENGINES, available_cores, open_engine
from headstart.errors import BackboneError, ParameterError

KINDS = [kind for kind in ENGINES if kind not in ("auto", "torch") and find_spec(kind)]


def images(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(count)]


def rows(engine: object, given: list[np.ndarray]) -> np.ndarray:
    return np.stack([row for (row,) in engine.run(given)])  # type: ignore[attr-defined]


@pytest.mark.skipif(len(KINDS) < 2, reason="only one engine is installed")
def test_the_engines_agree(backbone: Backbone) -> None:
    given = images(3)
    found = [rows(open_engine(backbone.network, kind=kind), given) for kind in KINDS]
    assert found[0].shape == (3, backbone.dim)
    assert found[0].dtype == np.float32
    scale = np.abs(found[0]).max()
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < 1e-4 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_does_not_depend_on_place_or_neighbours(backbone: Backbone, kind: str) -> None:
    engine = open_engine(backbone.network, kind=kind)
    given = images(12)
    order = np.random.default_rng(1).permutation(12)
    found = rows(engine, given)
    np.testing.assert_array_equal(found[order], rows(engine, [given[i] for i in order]))
    np.testing.assert_array_equal(found[:1], rows(engine, given[:1]))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_drawn_as_they_are_needed(backbone: Backbone, kind: str) -> None:
    drawn = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal drawn
        for image in images(30):
            drawn += 1
            yield image

    results = open_engine(backbone.network, kind=kind).run(counted())
    next(results)
    assert drawn <= available_cores() + 12
    assert sum(1 for _ in results) == 29


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_while_decoding_comes_through(backbone: Backbone, kind: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield images(1)[0]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        list(open_engine(backbone.network, kind=kind).run(broken()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong", [np.zeros((224, 224, 3), np.float32), np.zeros((224, 224), np.uint8), np.zeros((1, 224, 224, 3), np.uint8)]
)
def test_what_is_no_image_is_refused_rather_than_computed(backbone: Backbone, kind: str, wrong: np.ndarray) -> None:
    with pytest.raises(ParameterError, match=r"uint8 images of shape \(H, W, 3\)"):
        list(open_engine(backbone.network, kind=kind).run([wrong]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_network_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(BackboneError, match="cannot load this network"):
        open_engine(path, kind=kind)
    with pytest.raises(BackboneError, match=r"none.onnx: cannot be opened \(No such file"):
        open_engine(tmp_path / "none.onnx", kind=kind)


def test_an_unknown_engine_is_named_with_the_known_ones(backbone: Backbone) -> None:
    with pytest.raises(ParameterError, match="one of auto, openvino, onnxruntime, torch, got 'tensorrt'"):
        open_engine(backbone.network, kind="tensorrt")


def test_the_same_engine_is_opened_once(backbone: Backbone) -> None:
    assert open_engine(backbone.network) is open_engine(backbone.network)


def test_ctrl_c_is_survived_after_engines_were_closed(backbone: Backbone) -> None:
    """OpenVINO's plugin sets the stack for signals: closed twice, it left it in memory that is gone."""
    script = (
        "import gc, pathlib, signal; from headstart.engine import open_session\n"
        f"sessions = [open_session(pathlib.Path({str(backbone.network)!r}), kind='openvino') for _ in range(2)]\n"
        "while sessions: sessions.pop(0); gc.collect()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('told')); signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr
