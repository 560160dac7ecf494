"""`FitSettings`: everything that can be set for a fit; `ListOptions`: how lists are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstart.errors import ParameterError, setting
from headstart.settings.field import (
    LEVELS,
    PATH,
    SWITCH,
    TEXT,
    Settings,
    documented,
    either,
    instance_of,
    list_of,
    measure,
    number,
    one_of,
    option,
    table_of,
    whole,
)
from headstart.settings.fine_tuning import FineTuning

MAPS = ("none", "linear", "kernel", "deep", "auto")
ADAPTATIONS = ("auto", "none", "standardised", "coral", "subspace", "ot", "tca", "self-training", "dann")
Cache = str | Path | Literal["auto"] | None
DECODERS = ("light", "unet", "deeplabv3plus")
DETECTORS = ("light", "fcos", "retinanet", "ssd", "faster_rcnn", "d_fine", "rt_detr")
"""Architectures of heads on maps: decoders of masks, and detectors; the tasks have their tables."""
_COLUMNS = ("path", "text", "pair", "translation", "label", "split", "group")


def _columns(typed: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in typed]
    for text, (kind, _, name) in zip(typed, pairs, strict=True):
        if kind not in _COLUMNS or not (name or text in ("pair=", "split=", "group=")):
            raise ParameterError(
                "--column takes path=NAME, text=NAME, pair=NAME, translation=NAME, label=NAME, split=NAME or group=NAME (pair=, "
                f"split=, group= for none); got {text!r}."
            )
    return {kind: name for kind, _, name in pairs}


def seconds(typed: str) -> float:
    """A time as it is typed, ``90s``, ``10m`` or ``1h``, in seconds."""
    return measure(typed, {"": 1, "s": 1, "m": 60, "h": 3600}, words="a time such as 90s, 10m or 1h", flag="--budget")


def _levels(typed: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in typed.split(","))
    except ValueError:
        raise ParameterError(f"--levels takes two numbers, such as 0,4095; got {typed!r}.") from None


def check_map(map: str, fine_tuning: FineTuning | None) -> None:
    """Refuse a map together with a training."""
    if map != "none" and fine_tuning is not None:
        raise ParameterError(
            f"{setting('map')} is for the features of a frozen backbone, so it cannot be combined with a training. "
            f"Leave one of them out: {setting('map')}, or {setting('strategy')}."
        )


@documented
@dataclass(frozen=True, kw_only=True)
class ListOptions(Settings):
    """How lists are read."""

    columns: Mapping[str, str] | None = option(
        None, "Column of a list: path=, text=, pair=, translation=, label=, split= or group=.", table_of(*_COLUMNS), flag="--column",
        metavar="KIND=NAME", parse=_columns, several=True,
        details="Only where they are not recognised by their names; an empty NAME is for none. `pair` is the second of two texts that are "
        "one input, and `translation` what is to become of a text.",
    )  # fmt: skip
    labels: tuple[str, ...] = option(
        (), "Column of a list to learn; given twice or more, all of them, on one backbone.", list_of(TEXT), flag="--label", metavar="NAME",
        parse=tuple, several=True, shown="the column that is recognised",
        details="With several columns, an image may lack labels: a cell that is empty is a missing label.",
    )  # fmt: skip
    label_separator: str | None = option(
        None, "What separates several labels in a cell of a list; '' for never.", TEXT, metavar="TEXT", shown="recognised"
    )  # fmt: skip
    image_root: str | Path | None = option(
        None, "Folder that the paths in a list are relative to.", PATH, metavar="DIR", shown="the folder of the list"
    )  # fmt: skip
    allow_missing: bool = option(False, "Pass over rows of a list without a label or a file.", SWITCH)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and "label" in (self.columns or {}):
            both = f"{setting('labels', self.labels)} and {setting('columns', {'label': (self.columns or {})['label']})}"
            raise ParameterError(f"{both} both name the column of labels; give one of them.")
        twice = [name for name in self.labels if self.labels.count(name) > 1]
        if twice or "" in self.labels:
            wrong = f"{twice[0]!r} twice" if twice else "an empty name"
            raise ParameterError(f"{setting('labels')} names different columns of a list, and got {wrong}. Name each column once.")


@documented
@dataclass(frozen=True, kw_only=True)
class FitSettings(ListOptions):
    """Everything that can be set for a fit, with its defaults."""

    task: str = option(
        "auto", "What to learn: auto (recognised from the data), or the name of a task.", TEXT, metavar="NAME"
    )  # fmt: skip
    test: str | Path | None = option(
        None, "Test images: a folder or list with the same classes.", PATH, metavar="DIR",
        details="By default the test part of the data; where there is none, some of the images are held out.",
    )  # fmt: skip
    backbone: str = option(
        "efficientnet_lite0", "See `headstart backbones`; also NAME@SIZE, NAME+NAME, NAME+mirrored.", TEXT, metavar="NAME",
        parse="+".join, several=True, details="At another image size; the features of two networks together (given twice, or with a "
        "plus); the mean over an image and its mirror image.",
    )  # fmt: skip
    weights: str | Path | None = option(
        None, "Backbone weights: .safetensors, .pth (read safely), Keras' .h5.", PATH, metavar="FILE",
        details="By default the published ones. Of boxes also a whole detector: a file of torchvision's, or `coco`; for d_fine and rt_detr "
        "a folder with config.json and model.safetensors, or its name on the Hugging Face Hub.",
    )  # fmt: skip
    budget: float | None = option(
        None, "Choose backbone, image size, views and training within this time: 90s, 10m, 1h.", number(above=0), metavar="TIME",
        parse=seconds,
        details="In seconds, for the whole fit. `backbone` is where the search begins; without a budget it is what is used.",
    )  # fmt: skip
    head: str = option(
        "auto", "auto, logistic, ridge, kernel_ridge, neighbours, centroid or mlp.",
        one_of("auto", "logistic", "ridge", "kernel_ridge", "neighbours", "centroid", "mlp"), metavar="NAME",
        parse=lambda typed: typed.replace("-", "_"), details="`auto` chooses layers and head by out-of-sample scores.",
    )  # fmt: skip
    architecture: str | None = option(
        None, f"Head on maps. Masks: {', '.join(DECODERS)}. Boxes: {', '.join(DETECTORS)}.",
        one_of(*dict.fromkeys((*DECODERS, *DETECTORS))), metavar="NAME", shown="light",
        details="`light` is small and quick on stored maps; the others are as in their papers.",
    )  # fmt: skip
    windows: int = option(
        1, "Of masks: see each image through N x N overlapping windows, each at the image size.", whole(1, 8), metavar="N",
        details="For large images with small things. 1 sees the whole image at once.",
    )  # fmt: skip
    map: str = option(
        "none", "Map the features before the head: none, linear, kernel, deep or auto.", one_of(*MAPS), metavar="KIND",
        details="Principal components, linear discriminants, a learned projection; Nyström or random Fourier features; the hidden layer of "
        "a perceptron. `auto` tries all by out-of-sample scores, and does without where no gain is shown.",
    )  # fmt: skip
    class_weight: str | None = option(None, "Let every class count the same.", one_of("balanced"), metavar="balanced")
    fit_image: str | None = option(
        None, "Cut the centre, or squash the whole image.", one_of("crop", "squash"), metavar="crop|squash",
        details="By default the backbone's own.",
    )  # fmt: skip
    test_share: float = option(0.2, "Share of the images held out where there is no test part.", number(above=0, below=1))
    plan: str | Path | None = option(
        None, "Follow the plan that `headstart check --deep --fix` wrote.", PATH, metavar="FILE", details="See `headstart.audit.Plan`."
    )  # fmt: skip
    levels: tuple[float, float] | None = option(
        None, "Samples of more than 8 bits that are black and white, such as 0,4095.", LEVELS, metavar="LOW,HIGH", parse=_levels,
        shown="what the images use",
    )  # fmt: skip
    background: str | None = option(
        None, "What the pixels of masks are called that no class claims.", TEXT, metavar="NAME",
        shown="background, or not a class where a list calls them void",
        details="A class of that name, or else value 0, black, or what lies inside no shape.",
    )  # fmt: skip
    adapt_to: str | Path | None = option(
        None, "Unlabelled images of the world where the model will be used: adapt to them.", PATH, metavar="DIR",
        details="A folder, at any depth. Their labels are predicted, and the surest are learned from.",
    )  # fmt: skip
    adapt: str = option(
        "auto", f"How: {', '.join(ADAPTATIONS)}.", one_of(*ADAPTATIONS), metavar="METHOD",
        details="`auto` tries all, scores them without labels of that world, and leaves the model as it is where no gain is shown.",
    )  # fmt: skip
    coverage: float = option(
        0.95, "Share of images whose prediction set is to hold the right class.", number(above=0, below=1)
    )  # fmt: skip
    coverage_by_class: bool = option(False, "Aim at that coverage within each class.", SWITCH, flag="--by-class")
    false_alarm_rate: float = option(
        0.05, "Of anomaly detection: share of good images that may be called anomalous.", number(above=0, below=1),
        details="The threshold is set for it from good images alone.",
    )  # fmt: skip
    group_from: str | None = option(
        None, "Group of an image, from its file name.", TEXT, metavar="REGEX",
        details="Images with the same first group of the regular expression (or the same match) stay on one side of every split.",
    )  # fmt: skip
    folds: int = option(
        0, "Also cross-validate over the training part.", either("0 (none) or a whole number of at least 2", whole(0, 0), whole(2)),
        metavar="K",
    )  # fmt: skip
    seed: int = option(0, "The same seed gives the same result.", whole(0, 2**32 - 1))
    engine: str = option(
        "auto", "auto, openvino, onnxruntime or torch.", one_of("auto", "openvino", "onnxruntime", "torch"), metavar="NAME"
    )  # fmt: skip
    cache: Cache = option(
        "auto", "Folder for features and networks.", PATH, metavar="DIR", optional=True, recorded=False,
        shown="$HEADSTART_CACHE, else the user's cache folder",
        off=("--no-cache", "Store no features and no converted network."),
        details="`auto` is $HEADSTART_CACHE, else the user's cache folder; None stores nothing.",
    )  # fmt: skip
    fine_tuning: FineTuning | None = option(
        None, "Train the backbone and its head further, as this says; None leaves the backbone frozen.",
        instance_of(FineTuning, "a FineTuning"), flag="", nested=FineTuning,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.fine_tuning is not None:
            raise ParameterError(
                f"{setting('budget')} chooses the backbone for a head on frozen features, so it cannot be combined with a training. "
                f"Leave one of them out: {setting('budget')}, or {setting('strategy')}."
            )
        if self.adapt_to is not None and (self.fine_tuning is not None or self.folds):
            other = setting("strategy" if self.fine_tuning is not None else "folds")
            raise ParameterError(
                f"{setting('adapt_to')} adapts a head on frozen features, once, so it cannot be combined with {other}. "
                "Leave one of them out."
            )
        check_map(self.map, self.fine_tuning)
        if self.levels is not None:
            object.__setattr__(self, "levels", (float(self.levels[0]), float(self.levels[1])))
