"""The processes that train one model together, as ``torchrun`` starts them; one process alone is a team of one."""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headstart.errors import ParameterError

_PATIENCE = datetime.timedelta(hours=12)  # the others wait while one computes features


@dataclass(frozen=True)
class Team:
    """The place of a process among the processes that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Team:
        """What ``torchrun`` says in the environment; a team of one where it says nothing.

        Raises:
            ParameterError: the variables are there but are not numbers.
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
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def join(self, device: str) -> None:
        """Meet the others; does nothing in a team of one, or when it was called before."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(self.local_rank)
            distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
            atexit.register(self.leave)  # not after a fit: folds and a second fit go on with the same team

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """The first process of each machine goes through alone; the others follow, and find what it has kept."""
        if self.local_rank:
            self.wait()
        try:
            yield
        finally:
            if not self.local_rank:
                self.wait()

    def add_up(self, tensor: Any) -> Any:
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

        return bool(self.add_up(torch.tensor([float(flag)], device=device)).item())

    def share(self, count: int) -> slice:
        """Which of `count` images of a batch are this process's; the shares differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def leave(self) -> None:
        """Part from the others, at the end of the process."""
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()
