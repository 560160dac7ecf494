"""From a backbone and a plan to a network that can be trained: its frozen part cut off, its inputs, its head, its penalty (PyTorch)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headstart.backbones import torch_network
from headstart.backbones.conversion import export_module
from headstart.backbones.records import BackboneRecord
from headstart.backbones.stages import End, Front, PooledStages, Stage, Tail, as_tail_input, cut, noise, stages_of
from headstart.engine import Engine, TorchEngine, open_engine
from headstart.errors import HeadstartError, ParameterError
from headstart.files import write_file
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.settings import MOST_VIEWS, FineTuning
from headstart.training.inputs import DECODED_BYTES, ImageInputs, Inputs, Pixels, StoredInputs, affordable_views
from headstart.training.job import Pretrained, Rows, TrainingJob
from headstart.training.network import HeadNetwork, Network, fold_batchnorm, frozen_digest
from headstart.training.schedule import Schedule, trained_stages

Penalty = Callable[[Any, Any], Any]
"""A further term of the loss, from the input of the network and its last feature map: of each image (N,), or a scalar of the weights."""

_UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_RETAIN_STRENGTH = {"l2sp": 0.01, "distill": 1.0}
_FEW = 200  # images that PyTorch computes sooner than a frozen part is converted for a faster engine


@dataclass(frozen=True, eq=False, kw_only=True)
class Trainable:
    """What the loop trains.

    Attributes:
        network: the part of the backbone that runs in the loop, and the head.
        inputs: feeds it.
        stages: of the whole backbone.
        augmentation: for mixing images; views are made by the inputs.
        device: ``cpu`` or ``cuda``.
        penalty: a further term of the loss.
    """

    network: Network
    inputs: Inputs
    stages: tuple[Stage, ...]
    augmentation: Augmentation
    device: str
    penalty: Penalty | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared(Trainable):
    """The same, with what is needed after the training.

    Attributes:
        whole: the backbone without its classifier; after the training the trained weights are copied back into it.
        record: of the backbone, with the image size and colours of the plan.
        preprocessing: from an image to its input.
        trained: names of the stages that are trained.
        frozen: digest of what must not change, see `frozen_digest`.
        fitted_head: whether the head was initialised by a fit on frozen features.
        facts: sentences on what was done.
    """

    whole: PooledStages
    record: BackboneRecord
    preprocessing: Preprocessing
    trained: tuple[str, ...]
    frozen: str
    fitted_head: bool
    facts: tuple[str, ...]


class Preparation:
    """Prepares the network of one training.

    Args:
        job: what is to be trained.
        start: what it starts from.
        folder: of stored activations.
        rows: training rows that will be used, if fewer than all.
    """

    def __init__(self, job: TrainingJob, start: Pretrained, *, folder: Path, rows: Rows | None = None) -> None:
        self.job, self.plan, self.start, self.folder = job, job.plan, start, folder
        self.rows = job.train if rows is None else rows
        job.processes.check(job.plan)
        self.device = device_of(job.plan)
        job.processes.join(self.device)
        self.preprocessing = dataclasses.replace(start.preprocessing, size=job.plan.image_size or start.preprocessing.size)
        self.augmentation = Augmentation.parse(job.plan.augment)
        self.facts: list[str] = []

    def run(self) -> Prepared:
        """Prepare all of it.

        Raises:
            ParameterError: the plan does not suit the backbone or the labels.
        """
        job, plan = self.job, self.plan
        job.listener.stage("Preparing the network")
        record = self._record()
        whole: PooledStages = torch_network(
            dataclasses.replace(self.start.backbone, record=record), weights=self.start.weights, announce=job.listener.say
        )
        whole.flat = plan.pooling == "flatten"
        whole.eval()
        stages = stages_of(whole, side=self.preprocessing.size)
        trained = trained_stages(plan, [stage.name for stage in stages])
        frozen = frozen_digest(whole.model, [stage for stage in stages if stage.name in trained], batchnorm=plan.batchnorm)
        tail, inputs, sample = self._cut(whole, stages, trained)
        teacher = copy.deepcopy(tail) if plan.retain == "distill" and tail is not None else None
        head, fitted = self._head(tail, sample)
        network = Network(tail, head, flatten=whole.flat).to(self.device)
        if tail is not None and plan.batchnorm == "inference":
            fold_batchnorm(tail, lambda: tail(sample.to(self.device)))
        network.to(memory_format=torch.channels_last)
        return Prepared(
            network=network, inputs=inputs, stages=stages, augmentation=self.augmentation, device=self.device,
            penalty=self._penalty(network, teacher), whole=whole, record=record, preprocessing=self.preprocessing, trained=trained,
            frozen=frozen, fitted_head=fitted, facts=tuple(self.facts),
        )  # fmt: skip

    def _record(self) -> BackboneRecord:
        """The backbone's record with the image size and colours of the plan."""
        backbone, size = self.start.backbone, self.preprocessing.size
        record = backbone.record
        if size != record.input_size and not backbone.any_size:
            raise ParameterError(f"{record.name} takes images of {record.input_size} pixels only, and image_size is {size}. Leave it out.")
        mean, std = _UNIT if self.plan.pixels == "unit" else (record.mean, record.std)
        return dataclasses.replace(record, input_size=size, mean=mean, std=std)

    def _cut(self, whole: PooledStages, stages: Sequence[Stage], trained: Sequence[str]) -> tuple[Tail | None, Inputs, Any]:
        """The part that runs in the loop (None: the head alone), its inputs, and an example of them."""
        images = noise(self.preprocessing.size, self.preprocessing.size, seed=4)
        pixels = Pixels(
            self.job.images, preprocessing=self.preprocessing, augmentation=self.augmentation, seed=self.job.seed, memory=DECODED_BYTES
        )
        first = next((index for index, stage in enumerate(stages) if stage.name in trained), len(stages))
        halves = cut(whole, stages[first], side=self.preprocessing.size) if 0 < first < len(stages) else None
        front: Front | End | None = None
        if first == len(stages):
            front, tail = End(whole, flatten=whole.flat), None
        elif halves is not None:
            front, tail = halves
        if front is not None:
            with torch.inference_mode():
                activation = front(images)
            stored = self._stored(front, pixels, activation, stages[:first])
            if stored is not None:
                return tail, stored, as_tail_input(activation.clone(), stored.channels_first)
        if first:
            self.job.listener.say("The frozen part runs in every epoch: its output cannot be stored.")
        with torch.inference_mode():
            sample = whole.normalised(images)
        inputs = ImageInputs(pixels, normalise=whole.to(self.device).normalised, device=self.device)
        return Tail(whole, None), inputs, sample.clone()

    def _stored(self, front: Front | End, pixels: Pixels, activation: Any, before: Sequence[Stage]) -> StoredInputs | None:
        """Inputs that compute the frozen part once; None where the disk has no room for them."""
        job, folder, train = self.job, self.folder, len(self.rows)
        epochs = Schedule.of(self.plan, train).epochs
        asked = 0 if self.augmentation.still else self.plan.views or min(epochs, MOST_VIEWS)
        bytes_each = activation[0].numel() * 2
        views, size = affordable_views(asked, bytes_each=bytes_each, train=train, plain=len(job.validation), folder=folder)
        if views < 0:
            job.listener.warn(
                f"The output of the frozen part would take {size / 1e6:.0f} MB, more than half of the free space at {folder}: training is "
                "slower."
            )
            return None
        fewer = f" (no room on the disk for {asked})" if views < asked else ""
        what = f"{views} views{fewer} of {train} images" if asked else f"{train} images"
        first, last = (before[0].name, before[-1].name) if before else ("the first stage", "the last stage")
        self.facts.append(
            f"{first} to {last} are frozen: their output is computed once for {what} and stored during the training, {size / 1e6:.0f} MB "
            "on disk"
        )
        job.listener.say(self.facts[-1][0].upper() + self.facts[-1][1:] + ".")
        count = max(views, 1) * train + len(job.validation)
        return StoredInputs(
            lambda: self._engine(front, count), pixels, job, train=self.rows, views=views, folder=folder, device=self.device,
            channels_first=isinstance(front, Front) and front.channels_first,
        )  # fmt: skip

    def _engine(self, front: Front | End, count: int) -> Engine:
        if self.start.engine == "torch" or self.device == "cuda":
            return TorchEngine(front)
        if count <= _FEW:
            return TorchEngine(front, device="cpu", batch=1)  # one by one: no image depends on its neighbours
        size, path = self.preprocessing.size, self.folder / "frozen.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            name = f"the frozen part of {self.start.backbone.name}"
            written, _ = export_module(front, name=name, side=size, output="activation", any_size=False)
            write_file(path, written, durable=False)
        return open_engine(path, kind=self.start.engine, outputs=("activation",), size=size)

    def _head(self, tail: Tail | None, sample: Any) -> tuple[Any, bool]:
        """The head at the start of the training, and whether it was fitted on frozen features."""
        job, plan = self.job, self.plan
        flatten = plan.pooling == "flatten"
        with torch.inference_mode():
            width = int(Network(tail, HeadNetwork(1, 1), flatten=flatten).features(sample if tail is None else tail(sample)).shape[1])
        head = job.task.head(width, plan, seed=job.seed)
        if plan.start == "random" or plan.head_layers or flatten or self.start.features is None:
            return head, False
        features = self.start.features(self.preprocessing.size)
        if features is None:
            return head, False
        job.listener.stage("Fitting the head on frozen features")
        job.task.fit_head(head, features, job.train, seed=job.seed)
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

        def term(values: Any, last_map: Any) -> Any:
            with torch.no_grad():
                expected = teacher.pooled(teacher(values))
            return distillation(tail.pooled(last_map), expected, strength)

        return term


class L2SP:
    """Pulls weights towards their start: L2-SP of Li, Grandvalet and Davoine (2018).

    The term is  alpha/2 |w - w0|^2  over the backbone, w0 being its pre-trained weights, plus  beta/2 |v|^2  over the head, which has
    none. It does not depend on the images: where processes share a batch and average their gradients, each adds the whole term once.

    Args:
        start: the pre-trained weights by name. They are copied, so that training the network does not change them.
        alpha: strength for the backbone.
        beta: strength for the head.
    """

    def __init__(self, start: Mapping[str, torch.Tensor], alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self._start = {name: weights.detach().clone() for name, weights in start.items()}

    def term(self, named_parameters: Iterable[tuple[str, torch.Tensor]], head: Iterable[torch.Tensor]) -> torch.Tensor:
        """The term, a scalar; frozen parameters (``requires_grad`` false) are left out, since they do not change.

        Args:
            named_parameters: of the backbone, as ``module.named_parameters()`` gives them.
            head: parameters of the head.
        """
        parts = [self.alpha / 2 * (w - self._start[name]).square().sum() for name, w in named_parameters if w.requires_grad]
        parts += [self.beta / 2 * weights.square().sum() for weights in head if weights.requires_grad]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def distillation(features: torch.Tensor, teacher: torch.Tensor, strength: float) -> torch.Tensor:
    """The hint loss of Romero et al. (2015), without their regressor:  strength/2 |F - F0|^2  of each image (N,), float32 or better.

    Args:
        features: of the network in training (N, D).
        teacher: of the pre-trained one, for the same pixels; no gradient flows into them.
        strength: factor.
    """
    exact = torch.promote_types(features.dtype, torch.float32)
    return strength / 2 * (features.to(exact) - teacher.detach().to(exact)).square().sum(dim=1)


@contextmanager
def memory_errors(plan: FineTuning) -> Iterator[None]:
    """Turn a lack of memory into a message that says what to change.

    Raises:
        OutOfMemoryError: there is not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for batches of {plan.batch_size} images. Try a smaller --batch-size or --image-size, or fewer "
            "stages with --unfreeze."
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
