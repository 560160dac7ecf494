"""`TrainingJob`: what is to be trained on which images, by which processes; `TrainingTask`: what the one training loop asks of a task."""

from __future__ import annotations

import atexit
import datetime
import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.errors import ParameterError
from headstart.features import Images
from headstart.modalities.image import Preprocessing
from headstart.pixels.windows import Windows
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import CheckpointFolder

if TYPE_CHECKING:
    from headstart.backbones import Layer

Rows = npt.NDArray[np.int64]
StartFeatures = Callable[[int], npt.NDArray[np.float32] | None]
"""From the image size to the frozen features (m, D) of the training rows, those that the head takes; or None."""

_LONGEST = 4096  # bytes of a path
_TIMEOUT = datetime.timedelta(hours=12)  # the others wait while one computes features


@dataclass(frozen=True)
class Processes:
    """The rank of this process among those that train one model together, as ``torchrun`` starts them; by default it is alone."""

    rank: int = 0  # from 0
    size: int = 1  # number of processes (the world size)
    local_rank: int = 0  # rank on this machine

    @classmethod
    def from_environment(cls) -> Processes:
        """What ``torchrun`` has set in the environment, alone where nothing. ParameterError where the variables are not numbers."""
        try:
            size = int(os.environ.get("WORLD_SIZE", "1"))
            if size <= 1 or "RANK" not in os.environ:
                return cls()
            rank = int(os.environ["RANK"])
            return cls(rank, size, int(os.environ.get("LOCAL_RANK", rank)))
        except ValueError as error:
            raise ParameterError(
                f"The variables RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them ({error})."
            ) from None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    def check(self, plan: FineTuning) -> None:
        """Refuse, with a ParameterError, to train BatchNorm in several processes.

        PyTorch's SyncBatchNorm works on GPUs alone; without it the result would depend on the number of processes.
        """
        if self.size > 1 and plan.batchnorm == "train":
            raise ParameterError("batchnorm 'train' works in a single process. Use batchnorm 'inference', or start without torchrun.")

    def join(self, device: str) -> None:
        """Initialise the process group; nothing where this process is alone, or has joined before."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(self.local_rank)
            distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)
            atexit.register(self.leave)  # not after a fit: folds and a second fit use the same group

    def leave(self) -> None:
        """Destroy the process group, at the end of the process."""
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()

    def agreed(self, path: Path | None) -> Path | None:
        """The path that the first process has, in all of them."""
        if self.size == 1 or path is None:
            return path
        import torch
        from torch import distributed

        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        text = torch.frombuffer(bytearray(os.fsencode(path).ljust(_LONGEST, b"\0")), dtype=torch.uint8).to(device)
        distributed.broadcast(text, 0)
        return Path(os.fsdecode(text.cpu().numpy().tobytes().rstrip(b"\0")))

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """The first process of each machine runs the block alone; then the others do, and find what it has stored."""
        if self.local_rank:
            self.barrier()
        try:
            yield
        finally:
            if not self.local_rank:
                self.barrier()

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """A process that ended, by Ctrl-C as a rule, is an interruption for those that wait for it."""
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and "by peer" in str(error):  # of Gloo: the connection to a peer was closed or reset
                raise KeyboardInterrupt from None
            raise

    def sum(self, tensor: Any) -> Any:
        """The sum of the tensor over all processes, in place."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, *, device: str) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor([float(flag)], device=device)).item())

    def share(self, count: int) -> slice:
        """The rows of a batch of `count` images that this process computes; the shares differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def parallel(self, network: Any, plan: FineTuning) -> Any:
        """The network in DistributedDataParallel; itself where this process is alone."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # BatchNorm's statistics do not change, so buffers need not be sent. Newer versions of PyTorch have renamed the option.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        options = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        if plan.pooling == "flatten":  # layers after the last feature map do not run
            options["find_unused_parameters"] = True
        return DistributedDataParallel(network, **options)


@dataclass(frozen=True)
class Resumable:
    """Where the state of a training is saved, and the processes that share it."""

    checkpoints: CheckpointFolder | None = None  # None saves in a temporary folder
    resume: bool = False  # continue from its checkpoint
    processes: Processes = field(default_factory=Processes)  # that train together
    events: Path | None = None  # folder for TensorBoard's event files, if the plan asks for them


@dataclass(frozen=True, eq=False)
class Validation:
    """The network on images that it does not learn from."""

    loss: float | None = None  # None without images, as is the score
    score: float | None = None
    criterion: float = math.inf  # what the best epoch is selected by; the lower the better
    predictions: npt.NDArray[np.float32] | None = None  # (n, *shape), see `TrainingTask`


class TaskLoss(Protocol):
    """The loss of each image, since several processes may share a batch; the mean is the sum of losses over the sum of weights."""

    def __call__(self, outputs: Any, targets: Any, /) -> Any:
        """The loss of each image (N,), times its weight."""

    def weights(self, targets: Any) -> Any:
        """The weight of each image (N,)."""


class TrainingTask(Protocol):
    """A task as the training loop sees it: `predictions` are made of the outputs of the head network, and compared with `targets`."""

    @property
    def loss(self) -> TaskLoss:
        """From outputs and targets to losses."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the predictions for one image."""

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the stages whose maps the head takes, flat and side by side; none where it takes features."""

    def head(self, features: int, plan: FineTuning, *, seed: int) -> Any:
        """The head network, randomly initialised: features (N, D) to outputs, with a method `draw` as of `HeadNetwork`."""

    def fit_head(self, head: Any, features: npt.NDArray[np.float32], rows: Rows, *, layers: Sequence[Layer], seed: int) -> None:
        """Initialise the head by a fit on frozen features (m, D) of these rows; `layers` are slices of them."""

    def targets(self, rows: Rows, view: int | None = None) -> Any:
        """The targets of these rows, a tensor, as a view of the inputs has them, or without one; MixUp and CutMix mix it linearly."""

    def guessing(self, rows: Rows) -> float:
        """The mean loss on these rows of a network that has learned nothing."""

    def predictions(self, outputs: Any) -> Any:
        """The predictions (N, *shape)."""

    @property
    def score(self) -> str:
        """What `scores` are called: for classification ``accuracy``."""

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The score of each image (N,), from 0 to 1."""

    def validate(self, predictions: Any, targets: Any) -> Validation:
        """The scores over all validation images."""

    def model(
        self, head: Any, layer: Layer, dim: int, predictions: npt.NDArray[np.float32] | None, rows: Rows | None
    ) -> tuple[Any, npt.NDArray[np.float64] | None]:
        """What a run stores of the trained head, which takes the columns of `layer` out of `dim`, and the calibrated predictions.

        These are `predictions` for the validation images `rows`, where calibration may use them.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingJob(Resumable):
    """All that a training is told. The state is saved after each epoch."""

    plan: FineTuning
    task: TrainingTask
    images: Images  # training and validation images
    train: Rows  # rows that are learned from
    validation: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # rows that are scored after each epoch
    select_best: bool = True  # whether the best epoch is selected on the validation rows
    windows: Windows | None = None  # through which images are seen
    stored: Rows | None = None  # rows of which views are stored, for another training too; by default those that are learned from
    deadline: float | None = None  # the moment, as `time.perf_counter` has it, after which no step is begun
    seed: int = 0  # of everything random
    listener: Listener = field(default_factory=Listener)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained:
    """What a training starts from."""

    backbone: Backbone  # as `load_backbone` returned it; it is not changed
    preprocessing: Preprocessing  # of testing; the plan's image size takes precedence
    weights: str | Path | None = None  # as given to `load_backbone`
    engine: str = "auto"  # for the frozen part, as `open_engine` takes it; or ``torch``
    features: StartFeatures | None = None  # the frozen features that the head is fitted on at the start; None starts with a random head
