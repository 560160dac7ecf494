"""The processes that train one model together, as ``torchrun`` starts them: ranks, collective operations, DistributedDataParallel."""

from __future__ import annotations

import atexit
import datetime
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headstart.errors import ParameterError
from headstart.settings import FineTuning

_TIMEOUT = datetime.timedelta(hours=12)  # the others wait while one computes features


@dataclass(frozen=True)
class Processes:
    """The rank of this process among those that train together; by default it is alone.

    Attributes:
        rank: from 0.
        size: number of processes (the world size).
        local_rank: rank on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """What ``torchrun`` has set in the environment; one process alone where it has set nothing.

        Raises:
            ParameterError: the variables are not numbers.
        """
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
        """Refuse what several processes cannot do.

        PyTorch's SyncBatchNorm works on GPUs alone; without it the result would depend on the number of processes.

        Raises:
            ParameterError: BatchNorm is to be trained, and there are several processes.
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
