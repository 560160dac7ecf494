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
from headstart.backbones.records import BackboneRecord, Stage
from headstart.backbones.stages import End, Front, PooledStages, Tail, cut, noise, stages_of
from headstart.backbones.timm_models import export_module
from headstart.engine import Engine, TorchEngine, open_engine
from headstart.errors import HeadstartError, ParameterError
from headstart.files import write_file
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.settings import MOST_VIEWS, FineTuning
from headstart.training.convolutions import has_bfloat16
from headstart.training.inputs import DECODED_BYTES, ImageInputs, Inputs, Pixels, StoredInputs, affordable_views
from headstart.training.job import Pretrained, TrainingJob
from headstart.training.network import Network, fold_batchnorm, frozen_digest
from headstart.training.schedule import Schedule, trained_stages

Penalty = Callable[[Any, Any], Any]
"""A further term of the loss, from the input of the network and its last feature map: of each image (N,), or a scalar of the weights."""

_RETAIN_STRENGTH = {"l2sp": 0.01, "distill": 1.0}
_FEW = 200  # images that PyTorch computes sooner than a frozen part is converted for a faster engine


@dataclass(frozen=True, eq=False, kw_only=True)
class Trainable:
    """What the loop trains."""

    network: Network  # the part of the backbone that runs in the loop, and the head
    inputs: Inputs  # feeds it
    stages: tuple[Stage, ...]  # of the whole backbone
    augmentation: Augmentation  # for mixing images; views are made by the inputs
    device: str  # ``cpu`` or ``cuda``
    penalty: Penalty | None = None  # a further term of the loss


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared(Trainable):
    """The same, with what is needed after the training."""

    whole: PooledStages  # the backbone without its classifier; after the training the trained weights are copied back into it
    record: BackboneRecord  # of the backbone, with the image size and colours of the plan
    preprocessing: Preprocessing  # from an image to its input
    trained: tuple[str, ...]  # names of the stages that are trained
    frozen: str  # digest of what must not change, see `frozen_digest`
    fitted_head: bool  # whether the head was initialised by a fit on frozen features
    facts: tuple[str, ...]  # sentences on what was done


class Preparation:
    """Prepares the network of one training, with stored activations in `folder`."""

    def __init__(self, job: TrainingJob, start: Pretrained, *, folder: Path) -> None:
        self.job, self.plan, self.start, self.folder = job, job.plan, start, folder
        self.rows = job.train if job.stored is None else job.stored
        job.processes.check(job.plan)
        self.device = device_of(job.plan)
        job.processes.join(self.device)
        self.preprocessing = dataclasses.replace(start.preprocessing, size=job.plan.image_size or start.preprocessing.size)
        self.augmentation = Augmentation.parse(job.plan.augment)
        self.facts: list[str] = []

    def run(self) -> Prepared:
        """Prepare all of it. Raises ParameterError where the plan does not suit the backbone or the labels."""
        job, plan = self.job, self.plan
        job.listener.stage("Preparing the network")
        whole, stages, trained = self.network()
        frozen = frozen_digest(whole.model, [stage for stage in stages if stage.name in trained], batchnorm=plan.batchnorm)
        tail, inputs, sample = self._cut(whole, stages, trained)
        teacher = copy.deepcopy(tail) if plan.retain == "distill" and tail is not None else None
        head, fitted = self._head(tail, sample)
        network = Network(tail, head).to(self.device)
        if tail is not None and plan.batchnorm == "inference":
            half = plan.precision == "auto" and self.device == "cpu" and has_bfloat16()
            fold_batchnorm(tail, lambda: tail(sample.to(self.device))[0], half=half)
        network.to(memory_format=torch.channels_last)
        return Prepared(
            network=network, inputs=inputs, stages=stages, augmentation=self.augmentation, device=self.device,
            penalty=self._penalty(network, teacher), whole=whole, record=self._record(), preprocessing=self.preprocessing, trained=trained,
            frozen=frozen, fitted_head=fitted, facts=tuple(self.facts),
        )  # fmt: skip

    def network(self) -> tuple[PooledStages, tuple[Stage, ...], tuple[str, ...]]:
        """The whole backbone with its weights, its stages, and the names of those that are to be trained."""
        backbone, plan = dataclasses.replace(self.start.backbone, record=self._record()), self.plan
        whole: PooledStages = torch_network(backbone, weights=self.start.weights, announce=self.job.listener.say)
        whole.flat, whole.every, whole.maps = plan.pooling == "flatten", plan.every_stage, self.job.task.maps
        whole.eval()
        stages = stages_of(whole, side=self.preprocessing.size)
        return whole, stages, trained_stages(plan, [stage.name for stage in stages], [stage.flops for stage in stages])

    def _record(self) -> BackboneRecord:
        """The backbone's record with the image size and colours of the plan."""
        backbone, size = self.start.backbone, self.preprocessing.size
        record = backbone.record
        if size != record.input_size and not backbone.any_size:
            raise ParameterError(f"{record.name} takes images of {record.input_size} pixels only, and image_size is {size}. Leave it out.")
        if self.plan.pixels == "unit":
            record = dataclasses.replace(record, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="rgb")
        return dataclasses.replace(record, input_size=size)

    def _cut(self, whole: PooledStages, stages: Sequence[Stage], trained: Sequence[str]) -> tuple[Tail | None, Inputs, Any]:
        """The part that runs in the loop (None: the head alone), its inputs, and an example of them."""
        images = noise(self.preprocessing.size, self.preprocessing.size, seed=4)
        pixels = Pixels(
            self.job.images, preprocessing=self.preprocessing, augmentation=self.augmentation, seed=self.job.seed, memory=DECODED_BYTES,
            windows=self.job.windows,
        )  # fmt: skip
        first = next((index for index, stage in enumerate(stages) if stage.name in trained), len(stages))
        front: Front | End | None = None
        tail: Tail | None = None
        if first == len(stages):
            front = End(whole)
        elif first and (halves := cut(whole, stages[first], side=self.preprocessing.size)) is not None:
            front, tail = halves
        if front is not None:
            with torch.inference_mode():
                activation = front(images)
            stored = self._stored(front, pixels, activation, stages[:first])
            if stored is not None:
                return tail, stored, activation.clone()
        if first:
            self.job.listener.say("The frozen part runs in every epoch: its output cannot be stored.")
        with torch.inference_mode():
            sample = whole.normalised(images)
        inputs = ImageInputs(pixels, normalise=whole.to(self.device).normalised, device=self.device)
        return Tail(whole, None), inputs, sample.clone()

    def _stored(self, front: Front | End, pixels: Pixels, activation: Any, before: Sequence[Stage]) -> StoredInputs | None:
        """Inputs that compute the frozen part once; None where the disk has no room for them."""
        job, folder, train = self.job, self.folder, len(self.rows)
        epochs = Schedule.of(self.plan, len(job.train)).epochs
        asked = 0 if not pixels.augmented else self.plan.views or min(epochs, MOST_VIEWS)
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
            layout=front.layout if isinstance(front, Front) else None,
        )  # fmt: skip

    def _engine(self, front: Front | End, count: int) -> Engine:
        if self.start.engine == "torch" or self.device == "cuda":
            return TorchEngine(front)
        if count <= _FEW:
            return TorchEngine(front, device="cpu", batch=8)  # of small images as fast as one or two, of larger ones no slower
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
        with torch.inference_mode():
            width = int((sample if tail is None else tail(sample)[0]).shape[1])
        head = job.task.head(width, plan, seed=job.seed)
        if plan.start == "random" or plan.head_layers or plan.pooling == "flatten" or self.start.features is None:
            return head, False
        features = self.start.features(self.preprocessing.size)
        if features is None:
            return head, False
        job.listener.stage("Fitting the head on frozen features")
        layers = self.start.backbone.layers if plan.every_stage else (self.start.backbone.last,)
        first = layers[0].start
        layers = tuple(dataclasses.replace(layer, start=layer.start - first, stop=layer.stop - first) for layer in layers)
        job.task.fit_head(head, features, job.train, layers=layers, seed=job.seed)
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
                expected = teacher.network.last(teacher(values)[1])
            return distillation(tail.network.last(last_map), expected, strength)

        return term


class L2SP:
    """Pulls weights towards their start: L2-SP of Li, Grandvalet and Davoine (2018).

    The term is  alpha/2 |w - w0|^2  over the backbone, w0 being its pre-trained weights by name, which are copied, plus  beta/2 |v|^2  over
    the head, which has none. It does not depend on the images: where processes share a batch and average their gradients, each adds it
    once.
    """

    def __init__(self, start: Mapping[str, torch.Tensor], alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self._start = {name: weights.detach().clone() for name, weights in start.items()}

    def term(self, named_parameters: Iterable[tuple[str, torch.Tensor]], head: Iterable[torch.Tensor]) -> torch.Tensor:
        """The term, a scalar; frozen parameters (``requires_grad`` false) are left out, since they do not change."""
        parts = [self.alpha / 2 * (w - self._start[name]).square().sum() for name, w in named_parameters if w.requires_grad]
        parts += [self.beta / 2 * weights.square().sum() for weights in head if weights.requires_grad]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def distillation(features: torch.Tensor, teacher: torch.Tensor, strength: float) -> torch.Tensor:
    """The hint loss of Romero et al. (2015), without their regressor:  strength/2 |F - F0|^2  of each image (N,), float32 or better.

    The features F (N, D) are those of the network in training, F0 those of the pre-trained `teacher` for the same pixels.
    """
    exact = torch.promote_types(features.dtype, torch.float32)
    return strength / 2 * (features.to(exact) - teacher.detach().to(exact)).square().sum(dim=1)


@contextmanager
def memory_errors(plan: FineTuning) -> Iterator[None]:
    """Turn a lack of memory into an OutOfMemoryError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for batches of {plan.batch} images. Try a smaller --batch-size or --image-size, or fewer "
            "stages with --unfreeze."
        ) from None


class OutOfMemoryError(HeadstartError):
    """A training needs more memory than there is."""


def device_of(plan: FineTuning) -> str:
    """``cpu`` or ``cuda``. Raises ParameterError where a GPU is asked for, and there is none."""
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is 'cuda', and PyTorch finds no GPU here. Use 'cpu' or 'auto'.")
    return "cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu"
