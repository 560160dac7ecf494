"""What is said of each image: the row that is printed, or written into a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headstart.run import Run
from headstart.tasks.classification.predictions import ClassPredictions as Predictions


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One image: its most probable classes; or why it was refused, or left `open`.

    Attributes:
        path: as it was given.
        best: classes and probabilities, the answer first; empty for an image without an answer.
        error: why there is no answer.
        open: whether the image could be read, but its answer is not sure enough.
        candidates: the classes of its prediction set; None where the run cannot tell.
        unlikeness, unlike: how unlike the training images it is, and whether that is too much; None where the run cannot tell.
        nearest: the training image most like it; empty where the run cannot tell.
    """

    path: Path
    best: list[tuple[str, float]] = field(default_factory=list)
    error: str = ""
    open: bool = False
    candidates: list[str] | None = None
    unlikeness: float | None = None
    unlike: bool | None = None
    nearest: str = ""

    @property
    def name(self) -> str:
        """The path, printable even where its bytes are not valid UTF-8."""
        return str(self.path).encode("utf-8", "backslashreplace").decode("utf-8")


def answers(paths: Sequence[Path], predictions: Predictions, run: Run, *, top: int = 1, least: float | None = None) -> list[Answer]:
    """An answer for each image, in the order given.

    Args:
        paths: the images that `predictions` is about.
        predictions: what the run said of them.
        run: the run itself.
        top: how many classes to name, at most as many as there are.
        least: leave an image open that the model is less sure of than this, or that it finds unlike; None leaves none open.
    """
    judged, names = predictions.judgement, run.training_names
    rows: dict[int, Answer] = {}
    for row, index in enumerate(predictions.kept.tolist()):
        nearest = -1 if judged is None or judged.nearest is None else int(judged.nearest[row, 0])
        unlike, unlikeness = predictions.unlikeness(row)
        doubt = "" if least is None else _doubt(predictions, row, least, unlike=bool(unlike))
        rows[index] = Answer(
            path=paths[index],
            best=[] if doubt else _best(predictions, row, top),
            error=doubt,
            open=bool(doubt),
            candidates=predictions.candidates(row),
            unlikeness=unlikeness,
            unlike=unlike,
            nearest=_from_here(run.path, names[nearest]) if 0 <= nearest < len(names) else "",
        )
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        rows[index] = Answer(path=paths[index], error=error.reason)
    return [rows[index] for index in sorted(rows)]


def _doubt(predictions: Predictions, row: int, least: float, *, unlike: bool) -> str:
    """Why an image gets no answer; empty if it gets one."""
    guess, probability = predictions.top(row, 1)[0]
    if probability < least:
        return f"no answer: {guess} {probability:.4f} is not sure enough (less than {least:.4f})"
    return f"no answer: {guess} {probability:.4f}, but unlike anything seen in training" if unlike else ""


def _from_here(run: Path, name: str) -> str:
    """The path of a training image, which the run knows from its own folder."""
    return os.path.normpath(run / name) if "/" in name or not name.startswith("array[") else name


def _best(predictions: Predictions, row: int, top: int) -> list[tuple[str, float]]:
    """The classes to print first: the most probable; in multi-label runs those above one half, joined, before them."""
    if not predictions.link.independent:
        return predictions.top(row, top)
    labels, probability = predictions.answer(row)
    joined = (";".join(labels), probability)
    return [joined] if top == 1 else [joined, *predictions.top(row, top)]


def width_of(top: int, *, multilabel: bool) -> int:
    """How many pairs of label and probability an answer has at most, for `top` classes asked for."""
    return top + 1 if multilabel and top > 1 else top


def header(width: int) -> list[str]:
    """The names of the columns, for answers of this width."""
    further = [f"{name}_{k}" for k in range(2, width + 1) for name in ("label", "probability")]
    return ["path", "label", "probability", "error", "set", "unlike", "nearest", *further]


def cells(answer: Answer, width: int) -> list[str]:
    """The answer as text, a cell for each column of `header`."""
    best = [cell for name, probability in answer.best for cell in (name, f"{probability:.6f}")]
    best += [""] * (2 * width - len(best))
    unlike = "" if answer.unlike is None else "yes" if answer.unlike else "no"
    return [answer.name, *best[:2], answer.error, ";".join(answer.candidates or ()), unlike, answer.nearest, *best[2:]]


def entry(answer: Answer, *, multilabel: bool) -> dict[str, object]:
    """The answer as a JSON object; what there is nothing to say about is left out."""
    told: dict[str, object] = {"path": answer.name}
    if answer.error:
        told["error"] = answer.error
    else:
        label, probability = answer.best[0]
        told |= {"label": labels_of(label) if multilabel else label, "probability": round(probability, 6)}
        listed = answer.best[1:] if multilabel else answer.best
        if listed and len(answer.best) > 1:
            told["top"] = [{"label": name, "probability": round(probability, 6)} for name, probability in listed]
    judged = {"set": answer.candidates, "unlike": answer.unlike, "unlikeness": answer.unlikeness, "nearest": answer.nearest or None}
    return told | {key: value for key, value in judged.items() if value is not None}


def labels_of(joined: str) -> list[str]:
    """The labels of an image that may have several."""
    return [name for name in joined.split(";") if name]
