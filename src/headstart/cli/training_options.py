"""The options of training, for every command that trains, and what they become: a `FineTuning`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headstart.settings import FineTuning

_PANEL = "Training"


def _option(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_PANEL)


Strategy = Annotated[str, _option("probe: the backbone stays frozen. partial, full: its last stages, or all, are trained on.", "NAME")]
Unfreeze = Annotated[str | None, _option("Stages to train: a number of last ones, names, or gradual.", "STAGES")]
LearningRate = Annotated[float | None, _option("Highest learning rate. See `headstart lr-find`.")]
LayerDecay = Annotated[float | None, _option("Each stage learns at this share of the rate of the one above it.")]
Epochs = Annotated[int | None, _option("Passes over the training images.", "N")]
Steps = Annotated[int | None, _option("Or: number of batches.", "N")]
BatchSize = Annotated[int | None, _option("Images in a batch.", "N")]
Augment = Annotated[str | None, _option("none, light, standard, settings (flip=0.5,rotation=10), or a .toml file.", "CONFIG")]
Views = Annotated[int | None, _option("Augmented views of each image that are stored before a frozen part.", "N")]
Optimizer = Annotated[str | None, _option("adamw, adam, sgd or rmsprop.", "NAME")]
LossName = Annotated[str | None, _option("auto, cross_entropy, binary or focal.", "NAME")]
LabelSmoothing = Annotated[float | None, _option("Share of each target that is spread over all classes.")]
HeadLayers = Annotated[str | None, _option("Widths of dense layers in the head, such as 256 or 512,128.", "WIDTHS")]
Dropout = Annotated[float | None, _option("Share of the inputs of each layer of the head left out in training.")]
Pooling = Annotated[str | None, _option("avg, or flatten: the head sees every position of the last feature map.", "NAME")]
ImageSize = Annotated[int | None, _option("Side of the square input in pixels.", "N")]
Precision = Annotated[str | None, _option("auto, fp32 or bf16.", "NAME")]
Retain = Annotated[str | None, _option("Stay close to the pre-training: none, l2sp or distill.", "NAME")]
EarlyStop = Annotated[int | None, _option("Stop after so many epochs without a better validation loss.", "N")]
Average = Annotated[int | None, _option("Keep the mean of the weights of the last N epochs.", "N")]
Device = Annotated[str | None, _option("auto, cpu or cuda.", "NAME")]
Logger = Annotated[str | None, _option("none, or tensorboard: event files beside the run.", "NAME")]


def fine_tuning(strategy: str, given: dict[str, Any]) -> FineTuning | None:
    """What the options ask for: None where the backbone stays frozen and the head needs no training.

    Args:
        strategy: ``probe``, ``partial`` or ``full``.
        given: the other fields of `FineTuning`; None for what was not given.

    Raises:
        ParameterError: a value outside its limits, or options of training where nothing is trained.
    """
    from headstart.errors import ParameterError
    from headstart.settings import FineTuning

    asked = {name: value for name, value in given.items() if value is not None}
    if "head_layers" in asked:
        asked["head_layers"] = _widths(asked["head_layers"])
    if isinstance(asked.get("unfreeze"), str) and asked["unfreeze"].strip().lstrip("-").isdigit():
        asked["unfreeze"] = int(asked["unfreeze"])
    trains_a_head = {"head_layers", "dropout", "pooling"} & asked.keys()
    if strategy == "probe" and not trains_a_head:
        if asked:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
            raise ParameterError(
                f"{names}: for a training, and with --strategy probe there is none: the head is fitted in closed form on frozen features. "
                "Give --strategy partial or full; or --head-layers, to train a head of dense layers."
            )
        return None
    if strategy == "probe":
        idle = [f"--{name.replace('_', '-')}" for name in ("layer_decay", "retain") if name in asked]
        if idle:
            raise ParameterError(f"{', '.join(idle)}: for training the backbone, and --strategy probe trains the head alone.")
        asked.setdefault("start", "random")
    assert asked.keys() <= {field.name for field in fields(FineTuning)}
    return FineTuning(strategy=strategy, **asked)


def _widths(text: str) -> tuple[int, ...]:
    from headstart.errors import ParameterError

    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ParameterError(f"--head-layers takes whole numbers, such as 256 or 512,128; got {text!r}.") from None
