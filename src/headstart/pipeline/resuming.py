"""Where a training is kept while it lasts, so that it can be resumed; and whether what is resumed is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DataError, Interrupted, ParameterError, RunError
from headstart.features.table import FeatureTable
from headstart.modalities.image.augment import Augmentation
from headstart.settings import FitSettings
from headstart.settings.field import check_same
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.job import Processes, Resumable

_EVENTS = "-tensorboard"


def check_resumable(out: Path | None, settings: FitSettings, *, resume: bool) -> None:
    """Refuse, before any work is done, a training that could not be kept at its place, or that is not there to be resumed.

    ParameterError where an interrupted training is there and is not to be resumed, or was begun with other settings; RunError where there
    is none to be resumed.
    """
    if settings.fine_tuning is None and resume:
        raise ParameterError("Only a fine-tuning can be resumed (--strategy partial or full). Everything else is kept in the cache.")
    if out is None and resume:
        raise ParameterError("To resume a training, give the run that it was to become.")
    if settings.fine_tuning is None or out is None:
        return
    folder = CheckpointFolder.beside(out)
    if resume:
        plan = folder.plan()
        check_same(_settings_in(plan).to_dict() | {"augmentation": plan["settings"].get("augmentation")}, _described(settings), run=out)
    elif folder.has_checkpoint:
        raise ParameterError(
            f"{folder.path} holds the state of a training that was interrupted. Resume it: --resume {out}. To begin anew, remove "
            "that folder or give another --out."
        )


def checkpoints_of(
    out: Path | None, settings: FitSettings, table: FeatureTable, *, processes: Processes, resume: bool, command: str = ""
) -> Resumable:
    """Where the training of a run is kept: beside the run, which does not exist yet. After `check_resumable`.

    DataError where what is there was begun with other data, of which `table` has the final split; RunError where nothing can be written.
    """
    if settings.fine_tuning is None or out is None:
        return Resumable(processes=processes)
    folder, fingerprint = CheckpointFolder.beside(out), _fingerprint(table)
    if resume:
        if folder.plan()["fingerprint"] != fingerprint:
            raise DataError(f"The images or labels have changed since the training of {out} was begun. Begin anew with another --out.")
    elif processes.is_first:
        folder.begin({"settings": _described(settings), "data": table.dataset.source, "fingerprint": fingerprint, "command": command})
    processes.barrier()
    events = out.with_name(out.name + _EVENTS) if settings.fine_tuning.logger == "tensorboard" else None
    return Resumable(checkpoints=folder, resume=resume, processes=processes, events=events)


@contextmanager
def resumable_or_removed(resumable: Resumable, *, command: str) -> Iterator[None]:
    """After an interruption, say with which `command` to resume; once a run is written, or nothing could be resumed, leave nothing behind.

    Interrupted after Ctrl-C, where a state has been saved.
    """
    folder = resumable.checkpoints
    if folder is None:
        yield
        return
    done = False
    try:
        yield
        done = True
    except KeyboardInterrupt:
        done = not (folder.has_checkpoint or folder.activations.exists())
        if not done:
            raise Interrupted(f"Interrupted. The state of the training is saved. To resume: {command}") from None
        raise
    except RunError:  # the disk is full, and there will be room another time
        raise
    except Exception:
        done = not folder.has_checkpoint
        raise
    finally:
        if done and resumable.processes.is_first:
            folder.remove()


def settings_to_resume(run: Path, *, cache: Any = "auto") -> tuple[FitSettings, str]:
    """The settings and the data with which the interrupted training of a run was begun; RunError where there is none."""
    plan = CheckpointFolder.beside(run).plan()
    return _settings_in(plan, cache=cache), str(plan["data"])


def _settings_in(plan: Mapping[str, Any], **further: Any) -> FitSettings:
    """The settings that a training was begun with, with today's defaults for settings that are newer than it."""
    return FitSettings.from_dict({name: value for name, value in plan["settings"].items() if name != "augmentation"}, **further)


def _described(settings: FitSettings) -> dict[str, Any]:
    """All that the result depends on: the settings, and what stands in a file that they name."""
    plan = settings.fine_tuning
    return settings.to_dict() | {"augmentation": None if plan is None else Augmentation.parse(plan.augment).id}


def _fingerprint(table: FeatureTable) -> str:
    """SHA-256 over all images, labels and parts, hexadecimal."""
    digest, dataset = hashlib.sha256(b"".join(table.digests)), table.dataset
    for array in (dataset.targets.array, np.asarray(dataset.parts).astype("U5"), np.array(dataset.classes)):
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
