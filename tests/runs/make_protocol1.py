"""Make the protocol 1 runs beside this file, and record what the version that wrote them says of the pictures.

    PYTHONPATH=CHECKOUT/src python tests/runs/make_protocol1.py

CHECKOUT holds the last version that wrote protocol 1, commit 21fd99e. The network is timm's `test_efficientnet` with seeded random
weights, so nothing is downloaded. It needs the extras `torch`, `onnxruntime` and `serve`.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
KINDS = ("rings", "stripes", "checks")
RUNS = ("protocol1-one-label", "protocol1-several-labels", "protocol1-fine-tuned")
SHOWN = [f"pictures/{kind}/{kind}-0{number}.png" for kind in KINDS for number in (0, 1)]
_DATA = {"protocol1-several-labels": "pictures/tags.csv"}


def data_of(run: str) -> str:
    """The labelled pictures that a run was fitted on, relative to this folder."""
    return _DATA.get(run, "pictures")


def command(*arguments: str) -> str:
    """Return what a command prints on stdout."""
    from typer.testing import CliRunner

    from headstart.cli import application

    importlib.import_module("headstart.cli.application").register_commands()
    done = CliRunner().invoke(application, list(arguments))
    if done.exit_code:
        raise RuntimeError(f"headstart {' '.join(arguments)} failed:\n{done.output}")
    return str(done.stdout)


def recorded(run: str) -> dict[str, Any]:
    """Return what a run says of the pictures; to be called in a copy of this folder, since `evaluate` and `report` change the run."""
    command("report", run)
    page = Path(run, "report.html").read_text("utf-8")
    command("evaluate", run, data_of(run), "--out", "evaluation.json")
    return {
        "predict": json.loads(command("predict", run, *SHOWN, "--top", "3", "--format", "json")),
        "evaluate": json.loads(Path("evaluation.json").read_text("utf-8")),
        "explain": command("explain", run, *SHOWN, "--out", "explained", "--method", "cells").splitlines(),
        "report": [name for name in SHOWN if Path(name).name in page],
        "export": _exported(run),
        "serve": _served(run),
    }


def _exported(run: str) -> list[dict[str, list[float]]]:
    import onnxruntime

    command("export", run, "--out", f"{run}.onnx")
    session = onnxruntime.InferenceSession(f"{run}.onnx", providers=["CPUExecutionProvider"])
    names = ("probabilities", "logits", "unlikeness")
    images = [np.asarray(Image.open(path)) for path in SHOWN]
    outputs = [session.run(list(names), {"images": image[None]}) for image in images]
    return [{name: np.ravel(value).tolist() for name, value in zip(names, values, strict=True)} for values in outputs]


def _served(run: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
    from headstart.serve.app import create_app

    with TestClient(create_app([Path(run)], watch_seconds=0), base_url="http://127.0.0.1") as client:
        files = [("file", (Path(path).name, Path(path).read_bytes(), "image/png")) for path in SHOWN]
        answer = client.post("/predict?top=3&nearest=2", files=files)
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    return answer.json()


@contextlib.contextmanager
def _elsewhere(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _write_pictures(folder: Path) -> None:
    from conftest import draw

    rows = []
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = draw(kind, 100 * kind + number, side=24) // 8 * 8  # fewer values make smaller files
            Image.fromarray(pixels).save(folder / name / f"{name}-{number:02d}.png")
            rows.append((f"{name}/{name}-{number:02d}.png", f"{name};bright" if pixels.mean() > 125 else name))
    with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "labels"), *rows])


def _write_weights(file: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({name: value.contiguous() for name, value in timm.create_model("test_efficientnet").state_dict().items()}, file)


def _fit(run: str) -> None:
    from headstart import FineTuning, FitSettings, fit

    tuning = FineTuning(strategy="full", keep="last", epochs=2, batch_size=4, lr=0.001) if run == "protocol1-fine-tuned" else None
    settings = FitSettings(
        backbone="test_efficientnet", weights="test_efficientnet.safetensors", folds=0 if tuning else 3, fine_tuning=tuning
    )
    fit(data_of(run), out=run, settings=settings)


def main() -> None:
    """Make the pictures, the runs and what is recorded of them anew."""
    import sys

    sys.path.insert(0, str(HERE.parent))
    with tempfile.TemporaryDirectory() as name, _elsewhere(Path(name)):
        os.environ["HEADSTART_CACHE"] = f"{name}/cache"
        _write_pictures(Path("pictures"))
        _write_weights(Path("test_efficientnet.safetensors"))
        for run in RUNS:
            _fit(run)
        for made in ("pictures", *RUNS):
            shutil.rmtree(HERE / made, ignore_errors=True)
            shutil.copytree(made, HERE / made)
        for run in RUNS:
            text = json.dumps(recorded(run), indent=1, sort_keys=True)
            (HERE / f"{run}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
