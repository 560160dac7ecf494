"""`FineTuning`: everything that can be asked of a training, with its defaults and their reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from headstart.errors import ParameterError, nearest

STRATEGIES = ("probe", "partial", "full")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
LOSSES = ("auto", "cross_entropy", "binary", "focal")
RETAINS = ("none", "l2sp", "distill")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
LOGGERS = ("none", "tensorboard")
GRADUAL = "gradual"

_WORDS: Mapping[str, tuple[str, ...]] = {
    "strategy": STRATEGIES,
    "optimizer": OPTIMIZERS,
    "loss": LOSSES,
    "retain": RETAINS,
    "precision": PRECISIONS,
    "device": DEVICES,
    "logger": LOGGERS,
    "schedule": ("cosine", "constant"),
    "pooling": ("avg", "flatten"),
    "batchnorm": ("inference", "train"),
    "start": ("probe", "random"),
    "keep": ("best", "last"),
    "pixels": ("backbone", "unit"),
}


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a backbone and its head are trained together.

    Attributes:
        strategy: ``probe`` leaves the backbone frozen and trains the head alone; ``partial`` trains the last stages; ``full`` all of them.
        unfreeze: which stages ``partial`` trains: a number of last stages, or names (``stage6,last``; see ``headstart backbones NAME
            --stages``). ``gradual`` begins with the head and adds the stages of the strategy one by one, the last first (Howard and
            Ruder 2018).
        epochs, steps: length of the training, one or the other. By default `DEFAULT_STEPS`, but at least `LEAST_EPOCHS` epochs.
        batch_size: images in a step, over all processes.
        optimizer: ``adamw``, ``adam``, ``sgd`` (momentum 0.9) or ``rmsprop``.
        lr: highest learning rate, that of the head; by default `DEFAULT_LR` of the optimizer.
        layer_decay: each stage learns at this share of the rate of the stage above it.
        weight_decay: as AdamW has it; added to the gradient for the other optimizers.
        schedule: ``cosine`` after a linear warm-up, or ``constant``.
        warmup: share of the steps in which the rate rises.
        augment: ``none``, ``light``, ``standard`` or a configuration such as ``flip=0.5,rotation=10``; see
            `headstart.modalities.image.augment`.
        views: augmented views of each image that are stored when a part of the backbone is frozen; the epochs take turns. By default as
            many as there are epochs, at most `MOST_VIEWS`.
        image_size: side of the square input in pixels; the backbone's own by default.
        loss: ``auto`` is ``cross_entropy``, or ``binary`` where an image may have several labels. ``binary`` with two classes is one
            sigmoid. ``focal``: Lin et al. 2017.
        label_smoothing: share of each target that is spread over all classes.
        focal_gamma: of the focal loss.
        head_layers: widths of dense ReLU layers between the features and the output.
        dropout: share of the inputs of each dense layer that is left out in training.
        pooling: ``avg``, or ``flatten``: every position of the last feature map is an input of the head.
        start: ``probe`` begins with a head fitted on frozen features (LP-FT, Kumar et al. 2022), ``random`` with a random one.
        batchnorm: ``inference`` uses the statistics of the pre-training and keeps them; ``train`` those of the batch, in trained stages.
        retain: ``l2sp`` (Li et al. 2018) pulls the weights, ``distill`` the features, towards those of the pre-training.
        retain_strength: factor of that term; by default 0.01 for ``l2sp`` and 1 for ``distill``.
        clip: the gradient's norm is cut to this; 0 for not at all.
        precision: ``bf16`` computes in bfloat16 where it is allowed; ``auto`` does so on a GPU.
        compile: let PyTorch compile the network: a minute at the start, which a GPU may earn back in a long training. On the CPU it was
            slower for EfficientNet-Lite0 than without.
        device: ``auto`` is a GPU where there is one.
        validation_share: of the training images (not the test images), held out to choose the best epoch. 0 holds out none.
        early_stop: ends the training after so many epochs without a better validation loss.
        keep: the weights of the ``best`` epoch, or of the ``last``.
        average: the kept weights are the mean over the last so many epochs; 0 for none.
        pixels: ``backbone`` normalises colours as in the pre-training; ``unit`` divides by 255 and does nothing else.
        logger: ``tensorboard`` also writes event files.
    """

    strategy: str = "partial"
    unfreeze: int | str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float | None = None
    layer_decay: float = 0.8
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.1
    augment: str = "light"
    views: int | None = None
    image_size: int | None = None
    loss: str = "auto"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    head_layers: tuple[int, ...] = ()
    dropout: float = 0.0
    pooling: str = "avg"
    start: str = "probe"
    batchnorm: str = "inference"
    retain: str = "none"
    retain_strength: float | None = None
    clip: float = 1.0
    precision: str = "auto"
    compile: bool = False
    device: str = "auto"
    validation_share: float = 0.1
    early_stop: int | None = None
    keep: str = "best"
    average: int = 0
    pixels: str = "backbone"
    logger: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_layers", tuple(self.head_layers))
        for name, allowed in _WORDS.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ParameterError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.{nearest(str(value), allowed)}")
        self._check_counts()
        self._check_shares()
        if self.epochs is not None and self.steps is not None:
            raise ParameterError("Give either epochs or steps; both say how long to train.")
        if self.strategy == "probe" and self.unfreeze is not None:
            raise ParameterError("unfreeze is for the strategies 'partial' and 'full'; 'probe' keeps the whole backbone frozen.")
        if self.strategy == "probe" and self.retain != "none":
            raise ParameterError("retain is for the strategies 'partial' and 'full'; with 'probe' the backbone does not change.")
        if self.strategy == "full" and self.unfreeze not in (None, GRADUAL):
            raise ParameterError("'full' trains all stages. To train some of them, give unfreeze with the strategy 'partial'.")
        if self.validation_share == 0 and (self.early_stop is not None or self.keep == "best"):
            raise ParameterError("validation_share is 0, so no epoch can be chosen: give keep='last' and no early_stop.")

    def _check_counts(self) -> None:
        whole = (
            ("epochs", self.epochs, 1), ("steps", self.steps, 1), ("batch_size", self.batch_size, 1), ("views", self.views, 1),
            ("early_stop", self.early_stop, 1), ("average", self.average, 0), ("image_size", self.image_size, 32),
            *(("head_layers", width, 1) for width in self.head_layers),
        )  # fmt: skip
        for name, value, least in whole:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ParameterError(f"{name} must be a whole number of at least {least}, got {value!r}.")
        if self.image_size is not None and self.image_size > 4096:
            raise ParameterError(f"image_size must be at most 4096 pixels, got {self.image_size}.")
        if isinstance(self.unfreeze, int) and self.unfreeze < 1:
            raise ParameterError(f"unfreeze must be a number of stages from 1, names of stages, or 'gradual'; got {self.unfreeze!r}.")

    def _check_shares(self) -> None:
        limits = (
            ("lr", self.lr, 0.0, math.inf, "above 0"), ("layer_decay", self.layer_decay, 0.0, 1.0, "above 0 and at most 1"),
            ("retain_strength", self.retain_strength, 0.0, math.inf, "above 0"),
        )  # fmt: skip
        for name, value, least, most, words in limits:
            if value is not None and not (_is_number(value) and least < value <= most and math.isfinite(value)):
                raise ParameterError(f"{name} must be {words}, got {value!r}.")
        shares = (
            ("dropout", self.dropout, 1.0), ("warmup", self.warmup, 1.0), ("label_smoothing", self.label_smoothing, 1.0),
            ("validation_share", self.validation_share, 1.0), ("weight_decay", self.weight_decay, math.inf), ("clip", self.clip, math.inf),
            ("focal_gamma", self.focal_gamma, math.inf),
        )  # fmt: skip
        for name, value, below in shares:
            if not (_is_number(value) and 0 <= value < below):
                raise ParameterError(f"{name} must be at least 0{'' if math.isinf(below) else ' and below 1'}, got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"head_layers": list(self.head_layers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError for a name that is none of the fields."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ParameterError(f"FineTuning has no setting {name!r}.{nearest(name, known)} It has {', '.join(known)}.")
        return cls(**values)

    @property
    def highest_lr(self) -> float:
        """`lr`, or the default of the optimizer."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr


DEFAULT_STEPS = 500
"""BiT's rule for fewer than 20,000 images (Kolesnikov et al. 2020)."""

LEAST_EPOCHS = 5
MOST_VIEWS = 8
DEFAULT_LR: Mapping[str, float] = {"adamw": 5e-4, "adam": 5e-4, "rmsprop": 1e-4, "sgd": 1e-2}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
