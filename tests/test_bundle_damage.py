"""A run folder that was harmed, or made to deceive: every kind of damage is a `RunError` in words, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import FitSettings, fit, load
from headstart.errors import BackboneError, RunError
from headstart.files import file_digest
from headstart.run.manifest import digest_of as manifest_digest

FILES = {
    "model.onnx", "head.safetensors", "reference.safetensors", "manifest.json", "report.html", "MODEL_CARD.md", "split.csv",
    "confusion_matrix.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(pictures, out=folder, settings=FitSettings(head="centroid", cache=cache))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A run folder to be harmed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def _sealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody would who knows how it is sealed."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    change(manifest)
    manifest["digest"] = manifest_digest(manifest)
    file.write_text(json.dumps(manifest), "utf-8")


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_flipped_bit_is_noticed(folder: Path, name: str) -> None:
    _flip(folder / name)
    with pytest.raises(RunError, match=rf"{name}: .*(fit again|no protocol number|damaged|anew with: headstart report)"):
        load(folder)


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    """Only a space between two entries may differ."""
    file = folder / "manifest.json"
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[place] ^= 0x04
        file.write_bytes(changed)
        try:
            meant = json.loads(changed) == json.loads(whole)
        except ValueError:
            meant = False
        if not meant:
            with pytest.raises(RunError):
                load(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: is missing. The run is incomplete: copy it again, or fit again"):
        load(folder)


def test_what_is_no_run(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("")
    for path, message in (
        (empty, "not a run folder \\(it has no manifest.json\\)"),
        (file, "is a file and not a run folder"),
        (tmp_path / "rnu", "no such run folder. Did you mean run\\?"),
        (tmp_path, "not a run folder.*It holds the runs run: give one of them"),
        (folder / "model.onnx", "is a file and not a run folder"),
    ):
        with pytest.raises(RunError, match=message):
            load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "cannot be read \\(JSONDecodeError\\)"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read \\(UnicodeDecodeError\\)"),
        (b"[" * 100_000, "cannot be read \\(RecursionError\\)"),
        (b"[]", "no protocol number"),
        (b"{}", "no protocol number"),
        (b'{"protocol": "1"}', "no protocol number"),
        (b'{"protocol": true}', "no protocol number"),
        (b'{"protocol": 0}', "protocol 0; this version reads 1 to 2"),
        (b'{"protocol": 99}', "protocol 99; this version reads 1 to 2. Update Headstart"),
        (b'{"protocol": 1}', "'classes' is missing or is not a list"),
    ],
)
def test_a_manifest_that_is_none(folder: Path, text: bytes, message: str) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(RunError, match=message):
        load(folder)


def test_a_truncated_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    whole = file.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(RunError, match=r"manifest.json: cannot be read \(JSONDecodeError\). Copy the run again, or fit again."):
            load(folder)


@pytest.mark.parametrize("key", ["modality", "task", "state", "outputs", "preprocessing", "files", "metrics", "backbone", "digest"])
@pytest.mark.parametrize("value", [None, 5, "text"])
def test_entries_of_a_wrong_type(folder: Path, key: str, value: Any) -> None:
    file = folder / "manifest.json"
    manifest = {**json.loads(file.read_text("utf-8")), key: value}
    file.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(RunError, match=f"'{key}' is missing or is not a|its digest differs"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["state"].update(classes=["a", "a", "b"]), "'classes' must be different names"),
        (lambda m: m["state"].update(classes=[1, 2, 3]), "'classes' must be different names"),
        (lambda m: m["state"].update(classes=[]), "'classes' must be different names"),
        (lambda m: m.update(preprocessing={}), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(size=-5), "'preprocessing' cannot be used .*8 to 4096"),
        (lambda m: m["preprocessing"].update(size="224"), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(crop="all"), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(colour="red"), "'preprocessing' cannot be used"),
        (lambda m: m["files"].pop("model.onnx"), "lists no model.onnx"),
        (lambda m: m["files"].update({"model.onnx": 5}), "has been changed since"),
        (lambda m: m["files"].update({"report.html": None}), "has been changed since"),
        *(
            ((lambda m, name=name: m["files"].update({name: "0" * 64})), "outside the run folder .*Do not use this run")
            for name in ("../other", "/etc/passwd", "..", ".", "", "a/b", "..\\other", "C:x", "nul\0", "\ud800", "a\nb")
        ),
    ],
)
def test_a_manifest_made_to_deceive(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    _sealed(folder, change)
    with pytest.raises(RunError, match=message):
        load(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of Unix")
def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "report.html").unlink()
    os.mkfifo(folder / "report.html")
    with pytest.raises(RunError, match=r"report.html: is missing"):
        load(folder)


def test_a_model_with_weights_in_another_file_is_refused(folder: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load(folder / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    set_external_data(weights, "../../etc/passwd")
    weights.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    _sealed(folder, lambda manifest: manifest["files"].update({"model.onnx": file_digest(folder / "model.onnx")}))
    with pytest.raises(RunError, match=r"keeps its weights in another file.*Do not use this run"):
        load(folder)


def test_an_empty_model_is_told_when_it_is_asked(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    _sealed(folder, lambda manifest: manifest["files"].update({"model.onnx": file_digest(folder / "model.onnx")}))
    with pytest.raises(BackboneError, match="cannot load this network"):
        load(folder).predict([np.zeros((32, 32, 3), np.uint8)])
