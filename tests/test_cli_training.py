"""Fine-tuning on the command line: every option, what is refused, and what is left of a training that failed."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headstart.errors import ParameterError
from headstart.settings import GRADUAL, FineTuning

Cli = Callable[..., Any]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs headstart[torch]")

# Every option of training with a value that is not the default, and what it becomes
OPTIONS: dict[str, tuple[str, Any]] = {
    "unfreeze": ("stage6,last", "stage6,last"), "lr": ("3e-3", 3e-3), "layer_decay": ("0.5", 0.5), "epochs": ("7", 7),
    "batch_size": ("4", 4), "augment": ("flip=0.5,rotation=10", "flip=0.5,rotation=10"), "views": ("3", 3), "optimizer": ("sgd", "sgd"),
    "loss": ("focal", "focal"), "label_smoothing": ("0.1", 0.1), "head_layers": ("64,8", (64, 8)), "dropout": ("0.5", 0.5),
    "pooling": ("flatten", "flatten"), "image_size": ("64", 64), "precision": ("bf16", "bf16"), "retain": ("l2sp", "l2sp"),
    "early_stop": ("2", 2), "average": ("3", 3), "device": ("cpu", "cpu"), "logger": ("tensorboard", "tensorboard"),
    "ship": ("trained", "trained"),
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings with which `fit` was called; it does nothing else."""
    import headstart.pipeline

    seen: list[Any] = []

    def fit(*_: Any, settings: Any, **__: Any) -> None:
        seen.append(settings)
        raise ParameterError("asked")

    for name in ("fit", "fit_numbered"):
        monkeypatch.setattr(headstart.pipeline, name, fit)
    return seen


# What is asked for


def test_every_option_reaches_the_training(cli: Cli, asked: list[Any]) -> None:
    typed = [word for name, (text, _) in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", text)]
    cli("fit", "pictures", "--strategy", "partial", *typed)
    assert asked[0].fine_tuning == FineTuning(**{name: value for name, (_, value) in OPTIONS.items()})
    for name, (text, value) in OPTIONS.items():
        cli("fit", "pictures", "--strategy", "partial", f"--{name.replace('_', '-')}", text)
        assert asked[-1].fine_tuning == FineTuning(**{name: value}), name


def test_other_forms_of_options(cli: Cli, asked: list[Any]) -> None:
    for typed, plan in (
        ((), None),
        (("--strategy", "full"), FineTuning(strategy="full")),
        (("--strategy", "full", "--unfreeze", "gradual"), FineTuning(strategy="full", unfreeze=GRADUAL)),
        (("--strategy", "partial", "--unfreeze", "3", "--steps", "9"), FineTuning(unfreeze=3, steps=9)),
        (("--head-layers", "8"), FineTuning(strategy="probe", head_layers=(8,), start="random")),
        (("--pooling", "flatten", "--lr", "1e-3"), FineTuning(strategy="probe", pooling="flatten", lr=1e-3, start="random")),
    ):
        cli("fit", "pictures", *typed)
        assert asked[-1].fine_tuning == plan, typed


def test_options_without_a_training_are_refused(cli: Cli, pictures: Path) -> None:
    alone = {"head_layers", "dropout", "pooling"}
    for name, (text, _) in OPTIONS.items():
        if name not in alone:
            option = f"--{name.replace('_', '-')}"
            done = cli("fit", pictures, option, text)
            assert done.code == 2
            assert f"Error: {option}: for training, and with --strategy probe nothing is trained" in done.err, done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--strategy parial", r"strategy must be one of probe, partial, full, got 'parial'\. Did you mean partial\?"),
        ("--strategy partial --unfreeze 0", "unfreeze must be a number of stages from 1, .* got 0"),
        ("--strategy partial --unfreeze -2", "unfreeze must be a number of stages from 1, .* got -2"),
        ("--strategy full --unfreeze 2", "'full' trains all stages. To train some of them, give unfreeze with the strategy 'partial'"),
        ("--strategy partial --lr -1", r"lr must be a number above 0, got -1\.0"),
        ("--strategy partial --lr nan", "lr must be a number above 0, got nan"),
        ("--strategy partial --epochs 3 --steps 3", "Give either epochs or steps"),
        ("--strategy partial --epochs 0", "epochs must be a whole number of at least 1, got 0"),
        ("--strategy partial --dropout 1", "dropout must be a number of at least 0 and below 1, got 1.0"),
        ("--strategy partial --augment flipp=0.5", "Augmentation has no setting 'flipp'. Did you mean flip"),
        ("--strategy partial --augment absent.toml", "There is no file absent.toml"),
        ("--strategy partial --head-layers 2x", "--head-layers takes whole numbers, such as 256 or 512,128; got '2x'"),
        ("--head-layers ,", "--head-layers takes whole numbers, such as 256 or 512,128; got ','"),
        ("--head-layers 0", r"--head-layers must be a list of whole numbers of at least 1, got \(0,\)"),
        ("--head-layers 8 --retain l2sp", "--retain: for training the backbone, and --strategy probe trains the head alone"),
        ("--strategy partial --image-size 20", "--image-size must be a whole number from 32 to 4096, got 20"),
        ("--strategy partial --optimizer lion", "optimizer must be one of adamw, adam, sgd, rmsprop, got 'lion'"),
        ("--retain-strength 3", "No such option: --retain-strength"),
        ("--resume x --shard 1/2", "--resume and --shard are mutually exclusive"),
        ("--resume nowhere", r"nowhere: there is no interrupted training to resume \(no folder nowhere\.training\)"),
        ("--resume .", "here: there is no interrupted training to resume"),
        ("--show-augment x.jpg", "--show-augment must be the name of a .png file, got 'x.jpg'"),
        ("--show-augment no/x.png", "no/x.png cannot be written: there is no folder"),
        ("--show-augment x.png --augment flap=1", "Augmentation has no setting 'flap'"),
        ("--show-augment x.png --lr -1", "lr must be a number above 0"),
        ("--show-augment x.png --image-size 8", "--image-size must be a whole number from 32 to 4096, got 8"),
    ],
)
def test_values_that_cannot_be(cli: Cli, pictures: Path, options: str, message: str) -> None:
    done = cli("fit", pictures, *options.split())
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert "Extracting" not in done.err
    assert list(Path().iterdir()) == []


@needs_torch
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--unfreeze stage99", "This backbone has no stage 'stage99'; it has stem, stage1, .* Did you mean stage7"),
        ("--unfreeze 99", "This backbone has 9 stages"),
        ("--loss binary", "The loss 'binary' is for two classes"),
        ("--device cuda", "device is 'cuda', and PyTorch finds no GPU here"),
    ],
)
def test_what_does_not_suit_is_refused_before_any_work(
    cli: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = cli("fit", pictures, "--strategy", "partial", *options.split())
    assert done.code == 2
    assert re.search(message, done.err), done.err
    assert "Extracting" not in done.err
    assert list(Path().iterdir()) == []


def test_without_torch(cli: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backbones import timm_models

    if importlib.util.find_spec("timm") is not None:
        monkeypatch.setattr(timm_models, "installed", lambda: False)
    for options in (("--strategy", "partial"), ("--strategy", "full", "--out", "x"), ("--head-layers", "8")):
        done = cli("fit", pictures, *options)
        said = "Error: Fine-tuning needs an optional part of Headstart. Install it with: pip install 'headstart[torch]'\n"
        assert (done.code, done.out, done.err) == (2, "", f"Reading the data\n{said}")
    assert list(Path().iterdir()) == []


def test_a_sheet_of_what_the_network_sees(cli: Cli, pictures: Path) -> None:
    done = cli("fit", pictures, "--show-augment", "sheet.png", "--augment", "flip=0.5,crop=0.6", "--image-size", "64")
    assert done.code == 0, done.err
    assert done.out == "sheet.png: what the network will see with --augment flip=0.5,crop=0.6. Nothing was trained.\n"
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 6 * 64
    assert [path.name for path in Path().iterdir()] == ["sheet.png"]
    assert cli("fit", pictures, "--strategy", "partial", "--show-augment", "light.PNG").out.startswith("light.PNG: what the network will")


@needs_torch
@pytest.mark.torch
def test_a_failure_leaves_nothing_to_be_resumed(cli: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.training.tuning as tuning

    def fail(*_: Any, **__: Any) -> None:
        raise ParameterError("It was not to be.")

    monkeypatch.setattr(tuning, "train", fail)
    assert cli("fit", pictures, "--strategy", "partial", "--head", "centroid").err.endswith("Error: It was not to be.\n")
    assert not Path("runs").exists()
    for error, said in ((KeyboardInterrupt(), "Interrupted. Finished work is kept; run the same command again to resume."),):

        def interrupt(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(tuning, "train", interrupt)
        done = cli("fit", pictures, "--strategy", "partial", "--head", "centroid")
        assert (done.code, done.err.splitlines()[-1]) == (130, said)
        assert not Path("runs").exists()
