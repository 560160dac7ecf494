"""What adapting a saved run to the images it is tested on would bring; asked only where these come from another world."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.errors import RunError, StoreError
from headstart.features import FeatureStore
from headstart.files import cache_folder, feature_store_file
from headstart.progress import Listener
from headstart.run import Run
from headstart.tasks import Evaluation, Predictions

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationGain


def adaptation_gain(run: Run, predictions: Predictions, evaluation: Evaluation | None, listener: Listener) -> AdaptationGain | None:
    """Adapt a model like that of the run to the sampled images, and test both on these where their labels are known.

    None where the run was adapted already, where the features of its training images are no longer stored, and where the task, or the
    model, cannot be adapted.
    """
    if predictions.sample is None or predictions.sampled is None:
        return None
    try:
        if (earlier := run.record.adaptation) is not None and earlier.methods:
            return None
    except RunError:  # of an earlier version
        return None
    known = _training_features(run)
    if known is None:
        return None
    listener.stage("Estimating what adapting would bring")
    return run.task.adaptation_gain(run, known, predictions, evaluation, progress=listener.progress)


def _training_features(run: Run) -> npt.NDArray[np.float32] | None:
    """All features (n, D) of the training images, from the store; None where one is missing."""
    digests, layers = run.reference.get("digests"), run.manifest.backbone.layers
    extractor = run.manifest.provenance.get("extractor")
    if digests is None or not len(digests) or not layers or not isinstance(extractor, str):
        return None
    values = np.empty((len(digests), max(layer.stop for layer in layers)), dtype=np.float32)
    try:
        with FeatureStore(feature_store_file(cache_folder())) as store:
            found = store.get_into(extractor, [row.tobytes() for row in digests], values)
    except StoreError:
        return None
    return values if found.all() else None


def adapting_command(run: Run, data: object) -> str:
    """The command that fits the run again, to a folder of its own, and adapts it to these data."""
    folder = shlex.quote(str(data)) if isinstance(data, str | Path) and Path(data).is_dir() else "FOLDER"
    typed = str(run.manifest.provenance.get("command") or "")
    try:
        words = shlex.split(typed)
    except ValueError:
        words = []
    if words[:2] != ["headstart", "fit"]:
        return f"headstart fit DATA --adapt-to {folder}"
    pairs = zip(["", *words], words, strict=False)
    kept = [word for before, word in pairs if "--out" not in (before, word) and word != "-q" and not word.startswith("--out=")]
    return f"{shlex.join(kept)} --adapt-to {folder}"
