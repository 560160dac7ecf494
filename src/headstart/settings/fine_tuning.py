"""`FineTuning`: how a backbone and its head are trained, with the defaults and their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from headstart.errors import ParameterError
from headstart.settings.field import SWITCH, TEXT, Settings, documented, either, list_of, number, one_of, option, options, whole

GRADUAL = "gradual"

DEFAULT_BATCH = 16
DEFAULT_STEPS = 600
"""About as many as BiT takes for fewer than 20,000 images (Kolesnikov et al. 2020), in smaller batches."""

LEAST_EPOCHS = 5
MOST_EPOCHS = 10
LEAST_STEPS = 150
"""Of a head that was fitted on all stages, more than `MOST_EPOCHS` are only trained where these are fewer steps."""
MOST_VIEWS = 3
LABEL_SMOOTHING = 0.1
HELD_OUT = 200
"""Validation images that are enough to choose by."""
DEFAULT_LR: Mapping[str, float] = {"adamw": 1e-3, "adam": 1e-3, "rmsprop": 1e-4, "sgd": 1e-2}

_SHARE = number(least=0, below=1)


def _stages(text: str) -> int | str:
    return int(text) if text.strip().lstrip("-").isdigit() else text


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ParameterError(f"--head-layers takes whole numbers, such as 256 or 512,128; got {text!r}.") from None


_setting = partial(option, panel="Training")
_advanced = partial(option, flag="")  # of Python and of recipes; `headstart fit --help` is long enough


@documented
@dataclass(frozen=True, kw_only=True)
class FineTuning(Settings):
    """How a backbone and its head are trained together."""

    strategy: str = _setting(
        "partial", "probe: the backbone stays frozen. partial or full: its last stages, or all of them, are trained further.",
        one_of("probe", "partial", "full"), metavar="NAME",
    )  # fmt: skip
    unfreeze: int | str | None = _setting(
        None, "Stages to train: a number of last ones, names, or gradual.",
        either("a number of stages from 1, names of stages, or 'gradual'", whole(1), TEXT), metavar="STAGES", parse=_stages,
        details="Names are separated by commas (`stage6,last`); see `headstart backbones NAME --stages`. `gradual` begins with the head "
        "and adds the stages of the strategy one by one, the last first (Howard and Ruder 2018).",
    )  # fmt: skip
    lr: float | None = _setting(
        None, "Highest learning rate. See `headstart lr-find`.", number(above=0),
        details="It is that of the head; by default `DEFAULT_LR` of the optimizer.",
    )  # fmt: skip
    layer_decay: float = _setting(
        0.8, "The learning rate of each stage, as a share of that of the stage above it.", number(above=0, most=1)
    )  # fmt: skip
    epochs: int | None = _setting(
        None, "Passes over the training images.", whole(1), metavar="N",
        details="By default as many as make `DEFAULT_STEPS` steps, but at least `LEAST_EPOCHS`; with a head on all stages at most "
        "`MOST_EPOCHS`, or `LEAST_STEPS` steps.",
    )  # fmt: skip
    steps: int | None = _setting(None, "Number of batches, instead of --epochs.", whole(1), metavar="N")
    batch_size: int | None = _setting(
        None, "Images in a batch.", whole(1), metavar="N",
        details="Over all processes. By default `DEFAULT_BATCH`, and fewer where a task has found these to be better.",
    )  # fmt: skip
    augment: str = _setting(
        "light", "none, light, standard, settings (flip=0.5,rotation=10), or a .toml file.", TEXT, metavar="CONFIG",
        details="See `headstart.modalities.image.augment`.",
    )  # fmt: skip
    views: int | None = _setting(
        None, "Augmented views of each image to store at the output of the frozen part.", whole(1), metavar="N",
        details="The epochs take turns. By default as many as there are epochs, at most `MOST_VIEWS`.",
    )  # fmt: skip
    optimizer: str = _setting(
        "adamw", "adamw, adam, sgd or rmsprop.", one_of("adamw", "adam", "sgd", "rmsprop"), metavar="NAME", details="sgd has momentum 0.9."
    )  # fmt: skip
    loss: str = _setting(
        "auto", "auto, cross_entropy, binary, focal, dice or lovasz.", one_of("auto", "cross_entropy", "binary", "focal", "dice", "lovasz"),
        metavar="NAME",
        details="`auto` is `cross_entropy`, or `binary` where an image may have several labels. `binary` with two classes is one sigmoid. "
        "`focal`: Lin et al. 2017. `dice` and `lovasz` are for masks, each together with cross-entropy.",
    )  # fmt: skip
    label_smoothing: float | None = _setting(
        None, "Share of each target that is spread over all classes.", _SHARE,
        details="By default `LABEL_SMOOTHING` of labels, and none of masks.",
    )  # fmt: skip
    head_layers: tuple[int, ...] = _setting(
        (), "Widths of dense layers in the head, such as 256 or 512,128.", list_of(whole(1)), metavar="WIDTHS", parse=_widths,
        details="ReLU layers, between the features and the output.",
    )  # fmt: skip
    dropout: float = _setting(0.0, "Share of the inputs of each layer of the head that is dropped in training.", _SHARE)
    pooling: str = _setting(
        "avg", "avg, or flatten: the head sees every position of the last feature map.", one_of("avg", "flatten"), metavar="NAME"
    )  # fmt: skip
    image_size: int | None = _setting(
        None, "Side of the square input in pixels.", whole(32, 4096), metavar="N", details="By default the backbone's own."
    )  # fmt: skip
    precision: str = _setting(
        "auto", "auto, fp32 or bf16.", one_of("auto", "fp32", "bf16"), metavar="NAME",
        details="`bf16` computes in bfloat16 where that is safe; `auto` does so on a GPU, and in 1x1 convolutions on a CPU that has it.",
    )  # fmt: skip
    retain: str = _setting(
        "none", "Stay close to the pre-training: none, l2sp or distill.", one_of("none", "l2sp", "distill"), metavar="NAME",
        details="`l2sp` (Li et al. 2018) pulls the weights, `distill` the features, towards those of the pre-training.",
    )  # fmt: skip
    early_stop: int | None = _setting(None, "Stop after N epochs without a better validation loss.", whole(1), metavar="N")
    average: int = _setting(0, "Use the mean of the weights of the last N epochs.", whole(0), metavar="N", details="0 for none.")
    device: str = _setting(
        "auto", "auto, cpu or cuda.", one_of("auto", "cpu", "cuda"), metavar="NAME", details="`auto` is a GPU where there is one."
    )  # fmt: skip
    logger: str = _setting(
        "none", "none, or tensorboard: event files beside the run.", one_of("none", "tensorboard"), metavar="NAME"
    )  # fmt: skip
    head_input: str = _advanced(
        "auto", "`all`: the head takes the pooled outputs of all stages. `last`: the features before the classifier alone.",
        one_of("auto", "all", "last"), details="`auto` is `all` for a linear head that starts from the probe.",
    )  # fmt: skip
    ship: str = _setting(
        "auto", "`auto`: of the frozen backbone's head, the trained network and the mean of both, that which validation images prefer. "
        "`trained`: the trained network.", one_of("auto", "trained"), metavar="NAME",
        details="`trained` is what happens anyway where nothing is held out, or there is no probe or no trained stage.",
    )  # fmt: skip
    refit: bool | None = _advanced(
        None, "With `ship='auto'`: go on with all training images, when the model has been chosen.",
        either("True, False or None", SWITCH), details="By default where more than a tenth was held out: that is below 2,000 images.",
    )  # fmt: skip
    teacher: float = _advanced(
        0.0, "Share of the targets that are the probabilities that the frozen backbone's head gives an image out of sample.", _SHARE
    )  # fmt: skip
    weight_decay: float = _advanced(0.01, "Decoupled in AdamW; added to the gradient in the other optimizers.", number(least=0))
    schedule: str = _advanced("cosine", "`cosine` after a linear warm-up, or `constant`.", one_of("cosine", "constant"))
    warmup: float = _advanced(0.2, "Share of the steps during which the learning rate rises.", _SHARE)
    focal_gamma: float = _advanced(2.0, "Gamma of the focal loss.", number(least=0))
    start: str = _advanced(
        "probe", "`probe` begins with a head fitted on frozen features (LP-FT, Kumar et al. 2022), `random` with a random one.",
        one_of("probe", "random"),
    )  # fmt: skip
    batchnorm: str = _advanced(
        "inference", "`inference` uses the statistics of the pre-training unchanged; `train` those of the batch, in trained stages.",
        one_of("inference", "train"),
    )  # fmt: skip
    retain_strength: float | None = _advanced(
        None, "Factor of the term that `retain` adds; by default 0.01 for `l2sp` and 1 for `distill`.", number(above=0)
    )  # fmt: skip
    clip: float = _advanced(1.0, "The norm of the gradient is clipped to this; 0 for no clipping.", number(least=0))
    compile: bool = _advanced(
        False, "Let PyTorch compile the network.", SWITCH,
        details="It takes a minute at the start, which a long training on a GPU may earn back. On the CPU EfficientNet-Lite0 was slower.",
    )  # fmt: skip
    validation_share: float | None = _advanced(
        None, "Share of the training images (not of the test images) held out to choose by. 0 holds out none.", _SHARE,
        details="By default `HELD_OUT` images, but at least a tenth and at most a quarter.",
    )  # fmt: skip
    keep: str = _advanced("best", "Which weights are used: those of the `best` epoch, or of the `last`.", one_of("best", "last"))
    pixels: str = _advanced(
        "backbone", "`backbone` normalises colours as in the pre-training; `unit` divides by 255 and does nothing else.",
        one_of("backbone", "unit"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ParameterError("Give either epochs or steps; both say how long to train.")
        if self.strategy == "probe" and self.unfreeze is not None:
            raise ParameterError("unfreeze is for the strategies 'partial' and 'full'; 'probe' leaves the whole backbone frozen.")
        if self.strategy == "probe" and self.retain != "none":
            raise ParameterError("retain is for the strategies 'partial' and 'full'; with 'probe' the backbone does not change.")
        if self.strategy == "full" and self.unfreeze not in (None, GRADUAL):
            raise ParameterError("'full' trains all stages. To train some of them, give unfreeze with the strategy 'partial'.")
        if self.head_input == "all" and self.pooling == "flatten":
            raise ParameterError("A flattened head takes every position of the last feature map: give head_input='last', or pooling='avg'.")
        if self.validation_share == 0 and (self.early_stop is not None or self.keep == "best"):
            raise ParameterError("validation_share is 0, so no epoch can be chosen: give keep='last' and no early_stop.")

    @property
    def every_stage(self) -> bool:
        """Whether the head takes the pooled outputs of all stages."""
        linear = not self.head_layers and self.pooling == "avg" and self.start == "probe"
        return self.head_input == "all" or (self.head_input == "auto" and linear)

    @property
    def closed_form(self) -> bool:
        """Whether a head without layers is asked for on a frozen backbone, from its closed form: of features, it needs no training."""
        plain = not self.head_layers and not self.dropout and self.pooling == "avg"
        return self.strategy == "probe" and self.start == "probe" and plain

    def changed(self) -> tuple[str, ...]:
        """What differs from the defaults, as it is typed or called."""
        others = ((name, one) for name, one in options(type(self)).items() if name not in ("strategy", "start"))
        return tuple(one.flag or name for name, one in others if getattr(self, name) != getattr(type(self), name))

    @property
    def chooses(self) -> bool:
        """Whether the frozen backbone's head, the trained network and the mean of both are compared."""
        return self.ship == "auto" and self.validation_share != 0 and self.start == "probe" and self.strategy != "probe"

    def for_images(self, images: int) -> FineTuning:
        """The same with the defaults that depend on the number of training images."""
        share = min(max(HELD_OUT / images, 0.1), 0.25) if self.validation_share is None else self.validation_share
        return replace(self, validation_share=share, refit=share > 0.1 if self.refit is None else self.refit, batch_size=self.batch)

    @property
    def batch(self) -> int:
        """`batch_size`, or the default."""
        return DEFAULT_BATCH if self.batch_size is None else self.batch_size

    @property
    def highest_lr(self) -> float:
        """`lr`, or the default of the optimizer."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr
