"""Settings: every field is an option, is recorded, is compared before resuming, and is documented; every wrong value has its sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart.engine import ENGINES
from headstart.errors import ParameterError
from headstart.reliability import COVERAGE
from headstart.selection import HEADS
from headstart.settings import FineTuning, FitSettings
from headstart.settings.field import (
    Settings,
    check_same,
    documented,
    either,
    list_of,
    number,
    one_of,
    option,
    options,
    table_of,
    whole,
)

Cli = Callable[..., Any]

# By the name of a field: what is typed, what it becomes (not the default), and a value that is refused.
FIT: dict[str, tuple[str, Any, Any]] = {
    "task": ("classification", "classification", 3), "test": ("newer", "newer", 3),
    "backbone": ("resnet18", "resnet18", 3), "weights": ("a.pth", "a.pth", 3), "head": ("kernel-ridge", "kernel_ridge", "rigde"),
    "class_weight": ("balanced", "balanced", "equal"), "fit_image": ("squash", "squash", "stretch"), "test_share": ("0.3", 0.3, 1.0),
    "map": ("linear", "linear", "linaer"), "architecture": ("unet", "unet", "uner"), "windows": ("2", 2, 9),
    "background": ("sky", "sky", 3),
    "false_alarm_rate": ("0.01", 0.01, 0.0),
    "plan": ("plan.json", "plan.json", 3), "coverage": ("0.9", 0.9, 0.0), "levels": ("0,4095", (0.0, 4095.0), (5, 1)),
    "coverage_by_class": ("", True, "yes"),
    "group_from": ("(.)_", "(.)_", 3), "columns": ("path=where", {"path": "where"}, {"file": "where"}), "folds": ("3", 3, 1),
    "labels": ("age", ("age",), 3), "label_separator": ("+", "+", 3), "image_root": ("img", "img", 3), "allow_missing": ("", True, "yes"),
    "adapt_to": ("sketches", "sketches", 3), "adapt": ("coral", "coral", "core"),
    "budget": ("2m", 120.0, 0), "seed": ("4", 4, -1), "engine": ("onnxruntime", "onnxruntime", "tpu"), "cache": ("c", "c", 3),
}  # fmt: skip
TRAINING: dict[str, tuple[str, Any, Any]] = {
    "strategy": ("full", "full", "ful"), "unfreeze": ("stage6,last", "stage6,last", 0), "lr": ("3e-3", 3e-3, -1.0),
    "layer_decay": ("0.5", 0.5, 1.5), "epochs": ("7", 7, 0), "steps": ("70", 70, 0), "batch_size": ("4", 4, 0),
    "augment": ("flip=0.5", "flip=0.5", 3), "views": ("3", 3, 0), "optimizer": ("sgd", "sgd", "lion"), "loss": ("focal", "focal", "mse"),
    "label_smoothing": ("0.2", 0.2, 1.0), "head_layers": ("64,8", (64, 8), (64, 0)), "dropout": ("0.5", 0.5, 1.0),
    "pooling": ("flatten", "flatten", "max"), "image_size": ("64", 64, 16), "precision": ("bf16", "bf16", "fp16"),
    "retain": ("l2sp", "l2sp", "l1"), "early_stop": ("2", 2, 0), "average": ("3", 3, -1), "device": ("cpu", "cpu", "tpu"),
    "logger": ("tensorboard", "tensorboard", "wandb"), "ship": ("trained", "trained", "mean"),
}  # fmt: skip
# Settings of Python and of recipes, without an option: whoever adds a field decides here.
WITHOUT_OPTION: dict[str, tuple[Any, Any]] = {
    "weight_decay": (0.1, -1), "schedule": ("constant", "linear"), "warmup": (0.1, 1), "focal_gamma": (1.0, -1),
    "start": ("random", "zero"), "batchnorm": ("train", "off"), "retain_strength": (0.5, 0), "clip": (0.5, -1), "compile": (True, 1),
    "validation_share": (0.2, 1), "keep": ("last", "first"), "pixels": ("unit", "raw"),
    "head_input": ("last", "first"), "refit": (False, 1), "teacher": (0.5, 1),
}  # fmt: skip
EVERY: list[tuple[type[Settings], str, Any, Any]] = [
    *((FitSettings, name, value, wrong) for name, (_, value, wrong) in FIT.items()),
    *((FineTuning, name, value, wrong) for name, (_, value, wrong) in TRAINING.items()),
    *((FineTuning, name, value, wrong) for name, (value, wrong) in WITHOUT_OPTION.items()),
    (FitSettings, "fine_tuning", FineTuning(epochs=3), "full"),
]


def _flag(name: str) -> str:
    return {**options(FitSettings), **options(FineTuning)}[name].flag


def test_every_field_is_tested_here() -> None:
    assert {field.name for field in fields(FitSettings)} == {*FIT, "fine_tuning"}
    assert {field.name for field in fields(FineTuning)} == {*TRAINING, *WITHOUT_OPTION}
    assert {name for name, of in options(FitSettings).items() if of.flag} == FIT.keys()
    assert {name for name, of in options(FineTuning).items() if of.flag} == TRAINING.keys()


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


def test_every_field_is_an_option(cli: Cli, asked: list[Any]) -> None:
    for name, (text, value, _) in FIT.items():
        cli("fit", "pictures", _flag(name), *([text] if text else []))
        assert asked[-1] == FitSettings(**{name: value}), name
    for name, (text, value, _) in TRAINING.items():
        cli("fit", "pictures", *(() if name == "strategy" else ("--strategy", "partial")), _flag(name), text)
        assert asked[-1] == FitSettings(fine_tuning=FineTuning(**{name: value})), name
    cli("fit", "pictures", "--no-cache")
    assert asked[-1] == FitSettings(cache=None)
    cli("fit", "pictures")
    assert asked[-1] == FitSettings()


def test_zero_is_a_value_like_others(cli: Cli, asked: list[Any]) -> None:
    cli("fit", "pictures", "--strategy", "full", "--average", "0", "--folds", "0", "--dropout", "0")
    assert asked[-1] == FitSettings(fine_tuning=FineTuning(strategy="full"))
    cli("fit", "pictures", "--average", "0")
    assert asked[-1] == FitSettings()


ANY_TEXT = (
    "test",
    "background",
    "backbone",
    "weights",
    "plan",
    "group_from",
    "cache",
    "augment",
    "coverage_by_class",
    "label_separator",
    "image_root",
    "labels",
    "allow_missing",
)  # what it means is looked up later


@pytest.mark.parametrize("name", [name for name in {**FIT, **TRAINING} if name not in ANY_TEXT])
def test_every_wrong_value_has_a_sentence_and_exit_code_2(cli: Cli, name: str) -> None:
    wrong = {**FIT, **TRAINING}[name][2]
    text = {"task": "clasification", "columns": "file=where", "levels": "5,1", "head_layers": "64,0"}.get(name, str(wrong))
    training = () if name in FIT or name == "strategy" else ("--strategy", "partial")
    done = cli("fit", "pictures", *training, _flag(name), text)
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, lines
    if name != "columns":  # a language of its own
        assert re.match(rf"Error: {_flag(name)} must be .+, got .+\.( Did you mean .+\?)?$", lines[0]), lines[0]


@pytest.mark.parametrize(("cls", "name", "value", "wrong"), EVERY, ids=lambda value: value if isinstance(value, str) else None)
def test_every_field_has_a_limit(cls: type[Settings], name: str, value: Any, wrong: Any) -> None:
    with pytest.raises(ParameterError, match=rf"^{name} must be .+, got {re.escape(repr(wrong))}\."):
        cls(**{name: wrong})
    cls.check(**{name: value})
    with pytest.raises(ParameterError, match=rf"^{name} must be"):
        cls.from_dict({name: wrong})


@pytest.mark.parametrize(("cls", "name", "value", "wrong"), EVERY, ids=lambda value: value if isinstance(value, str) else None)
def test_every_field_is_in_the_record_and_in_the_check_before_resuming(cls: type[Settings], name: str, value: Any, wrong: Any) -> None:
    before = cls()
    changed = replace(before, **{name: value})  # type: ignore[type-var]
    record = json.loads(json.dumps(changed.to_dict()))
    if name == "cache":  # where features are stored changes no result
        assert record == before.to_dict()
        assert FitSettings.from_dict(record, cache=value) == changed
        return
    assert cls.from_dict(record) == changed
    assert record != before.to_dict()
    check_same(record, record, run=Path("runs/a"))
    inner = "epochs 3" if name == "fine_tuning" else name
    with pytest.raises(ParameterError, match=rf"The training of runs/a was begun with {name} .+ and cannot be resumed with .+"):
        check_same(record, before.to_dict(), run=Path("runs/a"))
    if name == "fine_tuning":
        other = FitSettings(fine_tuning=FineTuning(epochs=4)).to_dict()
        with pytest.raises(ParameterError, match=f"begun with {inner} and cannot be resumed with 4"):
            check_same(record, other, run=Path("runs/a"))


@pytest.mark.parametrize("cls", [FitSettings, FineTuning])
def test_every_field_is_documented(cls: type[Settings]) -> None:
    told = (cls.__doc__ or "").partition("Attributes:\n")[2]
    for name, of in options(cls).items():
        assert f"    {name}: {of.help}" in told
        assert of.help.endswith("."), name


def test_records_of_earlier_versions_are_read() -> None:
    """A record without settings that are newer than it gets their defaults; the record of protocol 1 is this one."""
    protocol_1 = {
        "test_share": 0.2, "group_from": None, "columns": None, "coverage": 0.95, "coverage_by_class": False, "folds": 0,
        "backbone": "efficientnet_lite0", "head": "centroid", "class_weight": None, "fit_image": None, "engine": "auto", "seed": 3,
        "test": None, "weights": None, "plan": None, "fine_tuning": {**FineTuning(lr=0.001).to_dict()},
    }  # fmt: skip
    assert FitSettings.from_dict(protocol_1) == FitSettings(head="centroid", seed=3, fine_tuning=FineTuning(lr=0.001))
    with pytest.raises(ParameterError, match=r"FitSettings has no setting 'sede'\. Did you mean seed.*\? Allowed: "):
        FitSettings.from_dict({"sede": 3})


def test_numbers_of_numpy_are_numbers() -> None:
    settings = FitSettings(seed=np.int64(3), test_share=np.float64(0.25))  # type: ignore[arg-type]
    assert json.loads(json.dumps(settings.to_dict()))["seed"] == 3


def test_the_names_are_those_that_there_are() -> None:
    assert options(FitSettings)["head"].limit.choices == HEADS
    assert options(FitSettings)["engine"].limit.choices == ENGINES
    assert FitSettings().coverage == COVERAGE
    assert headstart.FitSettings is FitSettings


@pytest.mark.parametrize(
    ("limit", "words", "allowed", "refused"),
    [
        (number(above=0, most=1), "a number above 0 and at most 1", (1, 0.5), (0, 1.1, True, "1", None, float("nan"), float("inf"))),
        (number(least=0, below=1), "a number of at least 0 and below 1", (0, 0.99), (-0.1, 1)),
        (number(), "a number", (-3, 1e9), ("3",)),
        (whole(2), "a whole number of at least 2", (2, 100), (1, 2.0, True, "2")),
        (whole(1, 3), "a whole number from 1 to 3", (1, 3), (0, 4)),
        (list_of(whole(1)), "a list of whole numbers of at least 1", ([], (3, 4)), (3, [0], "3")),
        (one_of("a", "b"), "one of a, b", ("a",), ("c", 1, None, "A")),
        (one_of("a"), "'a'", ("a",), ("b",)),
        (either("1 or 'a'", whole(1, 1), one_of("a")), "1 or 'a'", (1, "a"), (2, "b")),
        (table_of("path"), "a table of names of columns for path", ({"path": "x"}, {}), ({"label": "x"}, {"path": 3}, "path")),
    ],
)
def test_limits(limit: Any, words: str, allowed: tuple[Any, ...], refused: tuple[Any, ...]) -> None:
    assert limit.words == words
    assert all(limit.allows(value) for value in allowed)
    assert not any(limit.allows(value) for value in refused)


def test_one_field_is_enough() -> None:
    @documented
    @dataclass(frozen=True, kw_only=True)
    class Example(Settings):
        """An example."""

        rate: float = option(0.1, "Learning rate.", number(above=0), details="In steps.")

    assert Example.__doc__ == "An example.\n\nAttributes:\n    rate: Learning rate. In steps."
    assert Example(rate=0.5).to_dict() == {"rate": 0.5}
    assert options(Example)["rate"].flag == "--rate"
    with pytest.raises(ParameterError, match=r"^rate must be a number above 0, got 0\.$"):
        Example(rate=0)
