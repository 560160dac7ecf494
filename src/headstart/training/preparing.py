"""What a training begins with: the network cut where its frozen part ends, what feeds it, its head, its loss (PyTorch)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headstart.backbones import Backbone, torch_network
from headstart.backbones.conversion import export_module
from headstart.backbones.records import BackboneRecord
from headstart.backbones.stages import End, Front, PooledStages, Stage, Tail, as_tail_input, cut, noise, stages_of
from headstart.engine import Engine, open_engine
from headstart.errors import HeadstartError, ParameterError
from headstart.features import Images
from headstart.files import write_file
from headstart.heads import LogisticHead
from headstart.metrics.link import Link
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.progress import Listener
from headstart.settings import MOST_VIEWS, FineTuning
from headstart.training.folding import fold_batchnorm
from headstart.training.freezing import trained_stages
from headstart.training.head_network import HeadNetwork
from headstart.training.inputs import KEPT_PIXELS, ImageInputs, Inputs, Rows, StoredInputs, affordable_views
from headstart.training.loop import Penalty
from headstart.training.losses import Loss, make_loss
from headstart.training.network import Network, frozen_digest
from headstart.training.pixels import Pixels
from headstart.training.retain import L2SP, Distillation
from headstart.training.schedule import Schedule
from headstart.training.team import Team

StartFeatures = Callable[[int], npt.NDArray[np.float32] | None]
"""Called with the image size; gives the frozen features of the training rows before the classifier (m, D), or None."""

_UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_RETAIN_STRENGTH = {"l2sp": 0.01, "distill": 1.0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What is to be learned.

    Attributes:
        images: all that can be read, those for watching among them.
        targets: float32 (n, k): one-hot, or multi-hot.
        classes: the labels, in the order of the columns; for multi-label the column numbers.
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.
        train: rows that are learned from.
        watched: rows that are looked at after each epoch; on them the best epoch is chosen, unless `chooses` is False.
        chooses: see `watched`.
        class_weights: float32 (k,), or None.
        groups: (n,) group numbers or names for the folds of the head that it starts from, or None.
        label_dtype: of the labels that are predicted.
    """

    images: Images
    targets: npt.NDArray[np.float32]
    classes: npt.NDArray[Any]
    link: Link
    train: Rows
    watched: Rows
    chooses: bool = True
    class_weights: npt.NDArray[np.float32] | None = None
    groups: npt.NDArray[Any] | None = None
    label_dtype: np.dtype[Any] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A network that can be trained, and what it is trained with.

    Attributes:
        whole: the backbone without its classifier; after the training the trained weights are put back into it.
        record: of the backbone, with the image size and colours of the plan.
        preprocessing: how an image becomes its input.
        stages: all of the backbone; `trained` are the names of those that are trained.
        frozen: digest of what must not change, see `frozen_digest`.
        network: the part that runs in the loop, and the head.
        inputs: feeds it.
        loss, penalty, augmentation: as `Training` takes them.
        closed_form: whether the head was fitted in closed form.
        device: ``cpu`` or ``cuda``.
        facts: sentences on what was done.
    """

    whole: PooledStages
    record: BackboneRecord
    preprocessing: Preprocessing
    stages: tuple[Stage, ...]
    trained: tuple[str, ...]
    frozen: str
    network: Network
    inputs: Inputs
    loss: Loss
    penalty: Penalty | None
    augmentation: Augmentation
    closed_form: bool
    device: str
    facts: tuple[str, ...]


class Preparation:
    """From a backbone and a plan to a network in training.

    Args:
        task: what is to be learned.
        plan: how.
        backbone, preprocessing, weights, engine, seed, team, listener: as `fine_tune` takes them.
        folder: where stored activations lie.
        rows: images that the training will see, where they are fewer than all that are learned from.
    """

    def __init__(
        self, task: Task, plan: FineTuning, *, backbone: Backbone, preprocessing: Preprocessing, weights: str | Path | None, engine: str,
        seed: int, folder: Path, team: Team, listener: Listener, rows: Rows | None = None,
    ) -> None:  # fmt: skip
        self.task, self.plan, self.seed, self.engine = task, plan, seed, engine
        self.folder, self.team, self.listener = folder, team, listener
        self.rows = task.train if rows is None else rows
        self.device = device_of(plan)
        team.join(self.device)
        self.backbone, self.weights = backbone, weights
        self.preprocessing = dataclasses.replace(preprocessing, size=plan.image_size or preprocessing.size)
        self.augmentation = Augmentation.parse(plan.augment)
        self.facts: list[str] = []

    def run(self, start_features: StartFeatures | None) -> Prepared:
        """Prepare all of it.

        Raises:
            ParameterError: the plan does not suit the backbone or the labels.
        """
        self.listener.stage("Preparing the network")
        whole = self._whole()
        stages = stages_of(whole, side=self.preprocessing.size)
        trained = trained_stages(self.plan, [stage.name for stage in stages])
        frozen = frozen_digest(whole.model, [stage for stage in stages if stage.name in trained], batchnorm=self.plan.batchnorm)
        loss = make_loss(self.plan, link=self.task.link, classes=self.task.targets.shape[1], class_weights=self.task.class_weights)
        tail, inputs, sample = self._cut(whole, stages, trained)
        teacher = copy.deepcopy(tail) if self.plan.retain == "distill" and tail is not None else None
        head, closed_form = self._head(loss, tail, sample, start_features)
        network = Network(tail, head, flatten=self.plan.pooling == "flatten").to(self.device)
        if tail is not None and self.plan.batchnorm == "inference":
            fold_batchnorm(tail, lambda: tail(sample.to(self.device)))
        network.to(memory_format=torch.channels_last)
        return Prepared(
            whole=whole, record=self._record, preprocessing=self.preprocessing, stages=stages, trained=trained, frozen=frozen,
            network=network, inputs=inputs, loss=loss, penalty=self._penalty(network, teacher), augmentation=self.augmentation,
            closed_form=closed_form, device=self.device, facts=tuple(self.facts),
        )  # fmt: skip

    # The network ---------------------------------------------------------------------------------------------------------------------

    def _whole(self) -> PooledStages:
        """The network without its classifier, for the image size and colours of the plan."""
        record, size = self.backbone.record, self.preprocessing.size
        mean, std = _UNIT if self.plan.pixels == "unit" else (record.mean, record.std)
        record = dataclasses.replace(record, input_size=size, mean=mean, std=std)
        if size != self.backbone.record.input_size and not self.backbone.any_size:
            raise ParameterError(
                f"{record.name} takes images of {self.backbone.record.input_size} pixels only, and image_size is {size}. Leave it out."
            )
        self._record = record
        network: PooledStages = torch_network(
            dataclasses.replace(self.backbone, record=record), weights=self.weights, announce=self.listener.say
        )
        network.flat = self.plan.pooling == "flatten"
        network.eval()
        return network

    def _cut(self, whole: PooledStages, stages: Sequence[Stage], trained: Sequence[str]) -> tuple[Tail | None, Inputs, Any]:
        """The part that runs in the loop (None: the head alone), what feeds it, and an example of its input."""
        images = noise(self.preprocessing.size, self.preprocessing.size, seed=4)
        pixels = Pixels(
            self.task.images, preprocessing=self.preprocessing, augmentation=self.augmentation, seed=self.seed, memory=KEPT_PIXELS
        )
        first = next((index for index, stage in enumerate(stages) if stage.name in trained), len(stages))
        halves = cut(whole, stages[first], side=self.preprocessing.size) if 0 < first < len(stages) else None
        front: Front | End | None = None
        if first == len(stages):
            front, tail = End(whole, flatten=self.plan.pooling == "flatten"), None
        elif halves is not None:
            front, tail = halves
        if front is not None:
            with torch.inference_mode():
                activation = front(images)
            inputs = self._stored(front, pixels, activation, stages[:first])
            if inputs is not None:
                channels_first = isinstance(front, Front) and front.channels_first
                return tail, inputs, as_tail_input(activation.clone(), channels_first)
        if first:
            self.listener.say("The frozen part runs in every epoch: its output cannot be stored.")
        tail = Tail(whole, None)
        with torch.inference_mode():
            sample = whole.normalised(images)
        return tail, ImageInputs(pixels, normalise=whole.to(self.device).normalised, device=self.device), sample.clone()

    def _stored(self, front: Front | End, pixels: Pixels, activation: Any, before: Sequence[Stage]) -> StoredInputs | None:
        """Inputs that compute the frozen part once; None where the disk has no room for them."""
        epochs = Schedule.of(self.plan, len(self.rows)).epochs
        wanted = 0 if self.augmentation.still else self.plan.views or min(epochs, MOST_VIEWS)
        folder, train, plain = self.folder, len(self.rows), len(self.task.watched)
        bytes_each = activation[0].numel() * 2
        views, size = affordable_views(wanted, bytes_each=bytes_each, train=train, plain=plain, folder=folder)
        fewer = f" (the disk has no room for {wanted})" if 0 <= views < wanted else ""
        if views < 0:
            self.listener.warn(
                f"The output of the frozen part would take {size / 1e6:.0f} MB, more than half of what is free at {folder}: "
                "training is slower."
            )
            return None
        what = f"{views} views{fewer} of {train} images" if wanted else f"{train} images"
        through = before[-1].name if before else "the last stage"
        self.facts.append(
            f"{before[0].name if before else 'the first stage'} to {through} are frozen: their output is computed once for {what} and kept "
            f"while training, {size / 1e6:.0f} MB on disk"
        )
        self.listener.say(self.facts[-1][0].upper() + self.facts[-1][1:] + ".")
        return StoredInputs(
            lambda: self._engine(front), pixels, train=self.rows, plain=self.task.watched, views=views, folder=folder,
            device=self.device, channels_first=isinstance(front, Front) and front.channels_first, team=self.team,
            stage=self.listener.stage, progress=self.listener.progress,
        )  # fmt: skip

    def _engine(self, front: Front | End) -> Engine:
        if self.engine == "torch" or self.device == "cuda":
            from headstart.engine import TorchEngine

            return TorchEngine(front)
        size = self.preprocessing.size
        path = self.folder / "frozen.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            written, _ = export_module(
                front, name=f"the frozen part of {self.backbone.name}", side=size, output="activation", any_size=False
            )
            write_file(path, written, durable=False)
        return open_engine(path, kind=self.engine, outputs=("activation",), size=size)

    # The head ------------------------------------------------------------------------------------------------------------------------

    def _head(self, loss: Loss, tail: Tail | None, sample: Any, start_features: StartFeatures | None) -> tuple[HeadNetwork, bool]:
        """The head as the training begins with it, and whether it was fitted in closed form."""
        plan, flatten = self.plan, self.plan.pooling == "flatten"
        with torch.inference_mode():
            width = int(Network(tail, HeadNetwork(1, 1), flatten=flatten).features(sample if tail is None else tail(sample)).shape[1])
        head = HeadNetwork(width, loss.outputs, plan.head_layers, plan.dropout, seed=self.seed)
        if plan.start == "random" or plan.head_layers or flatten or start_features is None:
            return head, False
        features = start_features(self.preprocessing.size)
        if features is None:
            return head, False
        self.listener.stage("Fitting the head on frozen features")
        head.start_from(*_probe(features, self.task, seed=self.seed))
        return head, True

    def _penalty(self, network: Network, teacher: Tail | None) -> Penalty | None:
        plan, tail = self.plan, network.tail
        if plan.retain == "none" or tail is None:
            return None
        strength = plan.retain_strength or _RETAIN_STRENGTH[plan.retain]
        if plan.retain == "l2sp":
            pull = L2SP(dict(tail.model.named_parameters()), strength, plan.weight_decay)
            return lambda values, last_map: pull.term(tail.model.named_parameters(), network.head.parameters())
        assert teacher is not None
        teacher.to(self.device).requires_grad_(False)
        hint = Distillation(strength)

        def term(values: Any, last_map: Any) -> Any:
            with torch.no_grad():
                expected = teacher.pooled(teacher(values))
            return hint.per_image(tail.pooled(last_map), expected)

        return term


class memory_in_words:  # noqa: N801 (used like a function)
    """Memory that is not there, said in words."""

    def __init__(self, plan: FineTuning) -> None:
        self._plan = plan

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if short or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
            raise OutOfMemoryError(
                f"There is not enough memory for batches of {self._plan.batch_size} images. Try a smaller --batch-size or --image-size, or "
                "fewer stages with --unfreeze."
            ) from None


class OutOfMemoryError(HeadstartError):
    """A training needs more memory than there is."""


def device_of(plan: FineTuning) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        ParameterError: a GPU is asked for, and there is none.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is 'cuda', and PyTorch finds no GPU here. Use 'cpu' or 'auto'.")
    return "cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu"


def _probe(features: npt.NDArray[np.float32], task: Task, *, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Coefficients (k, D) and intercept (k,) of a logistic regression on standardised features, for features as they are."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-6 * max(float(scale.max()), 1e-12)] = 1.0
    targets = task.targets[task.train]
    weights: Mapping[int, float] | None = None if task.class_weights is None else dict(enumerate(task.class_weights.tolist()))
    y: npt.NDArray[Any] = task.link.targets(targets > 0.5)
    groups = None if task.groups is None else task.groups[task.train]
    head = LogisticHead(class_weight=weights, seed=seed).fit_overwriting((features - mean) / scale, y, groups=groups)
    coef = head.coef_ / scale
    return coef, head.intercept_ - coef @ mean
