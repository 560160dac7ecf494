"""Checkpoints: the whole state of a training in one file, written whole or not at all, so that a killed training goes on where it was.

The folder lies beside the run that is to be written (``RUN.training``) and holds ``plan.json`` (what is being trained),
``checkpoint.safetensors`` and ``activations/``. It is removed when the run is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.files import write_file

SUFFIX = ".training"
PLAN = "plan.json"
FILE = "checkpoint.safetensors"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a training was at some step: tensors by name, and plain values."""

    tensors: Mapping[str, Any]
    state: Mapping[str, Any]


class CheckpointFolder:
    """The folder of a training that is under way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, run: Path) -> CheckpointFolder:
        """The folder of the training that is to become this run."""
        return cls(run.with_name(run.name + SUFFIX))

    @property
    def activations(self) -> Path:
        """Where stored activations lie."""
        return self.path / "activations"

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Begin anew: what an earlier training left here is removed.

        Raises:
            RunError: the folder cannot be written.
        """
        with _in_words(self.path):
            self.remove()
            self.path.mkdir(parents=True)
            write_file(self.path / PLAN, json.dumps({"format": FORMAT, **plan}, indent=1, ensure_ascii=False).encode())

    def has_begun(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.path / FILE).exists()

    def plan(self) -> dict[str, Any]:
        """What is being trained here, as `begin` was told.

        Raises:
            RunError: there is no training here, or its description is damaged.
        """
        try:
            told = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            run = str(self.path).removesuffix(SUFFIX)
            raise RunError(
                f"{run}: there is no interrupted training to resume (no folder {self.path}). Give the --out of the training that was "
                "interrupted, or leave --resume out to begin one."
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / PLAN}: cannot be read ({type(error).__name__}). Begin again without --resume.") from None
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise RunError(f"{self.path / PLAN}: not written by this version of Headstart. Begin again without --resume.")
        return {key: value for key, value in told.items() if key != "format"}

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            RunError: it cannot be written; the earlier one is still there.
        """
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
        data = save(tensors, metadata={"state": json.dumps(checkpoint.state)})
        with _in_words(self.path):
            write_file(self.path / FILE, hashlib.sha256(data).digest() + data)

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None where the training was interrupted before its first.

        Raises:
            RunError: the file is damaged.
        """
        from safetensors.torch import load

        path = self.path / FILE
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror or error}).") from None
        digest, data = whole[:32], whole[32:]
        if hashlib.sha256(data).digest() != digest:
            raise RunError(f"{path}: is damaged (its digest differs). Begin again without --resume.")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return Checkpoint(load(data), json.loads(header["__metadata__"]["state"]))

    def remove(self) -> None:
        """Remove the folder and all that this class and `StoredInputs` put there."""
        shutil.rmtree(self.path, ignore_errors=not self.path.exists())


@contextlib.contextmanager
def _in_words(folder: Path) -> Any:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full. Free some space" if full else f"{error.strerror or error}. Choose another --out"
        run = str(folder).removesuffix(SUFFIX)
        raise RunError(
            f"The training cannot be kept in {folder}: {what}, then go on from the last checkpoint with --resume {run}."
        ) from None
