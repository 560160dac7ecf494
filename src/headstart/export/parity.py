"""Parity: an exported file must say of real images what the run says of them.

Both are given the same decoded arrays. From a file, `Preprocessing` decodes a large JPEG at a reduced scale; an exported model is given
all pixels, decoded by whoever uses it. What that adds is measured as well: see `Parity.scaled`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.exported import Exported
from headstart.export.onnx_file import UNLIKENESS
from headstart.export.real_images import RealImages
from headstart.run import Predictions, Run

PROBABILITY = 1e-3
"""By more than this, no probability of an exported file may differ from that of the run in the same engine."""

SCORE = 0.1
"""The same for the score of what is unlike the training images, of which 1 is about the width of what is usual."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from the run, over all images.

    Attributes:
        engine: runs both; ``litert`` runs the file only, and the default engine the run.
        part, images: which images of the run, and how many.
        same: share of them with the same label, or labels.
        probability: the largest difference of a probability; `typical`: the median, over the images, of the largest of each.
        score: the largest difference of the score of what is unlike the training images; None where there is none.
        same_unlike: share of the images that both call unlike, or both do not; None likewise.
        default_engine, against_default: the run's own engine, and the largest difference of a probability from the run in that one.
        scaled: the same when the run reads the files itself and may decode JPEGs at a reduced scale, which is not judged; and
            `scaled_same`: share of the same labels.
    """

    engine: str
    part: str
    images: int
    same: float
    probability: float
    typical: float
    score: float | None
    same_unlike: float | None
    default_engine: str
    against_default: float
    scaled: float
    scaled_same: float

    def faults(self) -> tuple[str, ...]:
        """What forbids to write a file in float32, in words; nothing for one that is in order."""
        found = []
        if self.same < 1.0:
            found.append(f"{1 - self.same:.1%} of {self.images} images get another label")
        if not self.probability <= PROBABILITY:
            found.append(f"a probability differs by {self.probability:.2g}, more than {PROBABILITY:g}")
        if self.score is not None and not self.score <= SCORE:
            found.append(f"the score of what is unlike the training images differs by {self.score:.2g}, more than {SCORE:g}")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Answers:
    """What an exported file says of n images: probabilities float32 (n, k), and scores float32 (n,) or None."""

    probabilities: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None


def answers(exported: Exported, sample: RealImages) -> Answers:
    """Ask an exported file."""
    rows = [(found["probabilities"], found.get(UNLIKENESS)) for found in exported(iter(sample.images))]
    scores = [score for _, score in rows if score is not None]
    return Answers(np.stack([row for row, _ in rows]), np.array(scores, dtype=np.float32) if scores else None)


def told_by_run(run: Run, sample: RealImages, *, files: bool = False, engine: str = "auto") -> Predictions:
    """What the run says of the same arrays; or, with `files`, of the files themselves.

    Raises:
        ParameterError: an image could not be read.
    """
    same = Run(run.path, run.manifest, engine=engine)
    found = same.predict(list(sample.images.paths) if files else sample.images)
    if len(found) < len(sample):
        raise ParameterError(f"{found.refused[0]}: an image that an export is checked with.")
    return found


def parity(run: Run, sample: RealImages, given: Answers, *, engine: str) -> Parity:
    """Compare answers of an exported file with those of the run.

    Args:
        run: the run.
        sample: the images.
        given: what the file said of them, in `engine`.
        engine: ``onnxruntime``, ``openvino`` or ``litert``, in which the run itself cannot be; it is then compared in its own engine.
    """
    own, default, from_files = (
        told_by_run(run, sample, engine="auto" if engine == "litert" else engine),
        told_by_run(run, sample),
        told_by_run(run, sample, files=True),
    )
    differences = np.abs(given.probabilities - own.probabilities).max(axis=1)
    score = same_unlike = None
    judgement = own.judgement
    if given.scores is not None and judgement is not None and judgement.unlikeness is not None and run.trust and run.trust.unlike:
        score = float(np.abs(given.scores - judgement.unlikeness).max())
        same_unlike = float(((given.scores > run.trust.unlike.threshold) == judgement.unlike).mean())
    return Parity(
        engine=engine, part=sample.part, images=len(sample),
        same=agreement(given.probabilities, own.probabilities, multilabel=run.multilabel),
        probability=_largest(differences), typical=float(np.median(differences)), score=score, same_unlike=same_unlike,
        default_engine=Run(run.path, run.manifest).engine.name,
        against_default=_largest(np.abs(given.probabilities - default.probabilities)),
        scaled=_largest(np.abs(given.probabilities - from_files.probabilities)),
        scaled_same=agreement(given.probabilities, from_files.probabilities, multilabel=run.multilabel),
    )  # fmt: skip


def _largest(values: npt.NDArray[Any]) -> float:
    """The largest; infinite if one is not a number, which a maximum of Python's might pass over."""
    return float(values.max()) if np.isfinite(values).all() else float("inf")


def agreement(one: npt.NDArray[Any], other: npt.NDArray[Any], *, multilabel: bool) -> float:
    """Share of images for which two sets of probabilities (n, k) give the same label; of several labels, all of them."""
    if multilabel:
        return float(((one >= 0.5) == (other >= 0.5)).all(axis=1).mean())
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
