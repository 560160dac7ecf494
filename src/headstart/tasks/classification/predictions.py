"""What a run says of inputs where each has a class, or several; and that as records, for the command line, batch jobs and the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.metrics.link import Link
from headstart.records import Column, Record, Writing
from headstart.tasks.outputs import Judgement, Neighbour, Predictions
from headstart.text import printable

_DIGITS = 6  # of probabilities
_TABLES: tuple[Writing, ...] = ("csv", "parquet")


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassPredictions(Predictions):
    """What a run says of a list of inputs.

    Attributes:
        classes: the class names, in the order of the columns.
        link: one label for each input, or any number.
    """

    classes: tuple[str, ...]
    link: Link

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (n, k), a row for each input that could be read. Rows sum to 1 where each input has one label."""
        return self.outputs["probabilities"]

    @property
    def labels(self) -> tuple[str | tuple[str, ...], ...]:
        """The most probable class of each row; where several are possible, all with a probability of at least one half."""
        decisions = self.link.decisions(self.probabilities)
        if self.link.independent:
            return tuple(tuple(self.classes[j] for j in np.flatnonzero(row)) for row in decisions)
        return tuple(self.classes[j] for j in decisions)

    def top(self, row: int, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes of one row, with their probabilities, best first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:count]
        return [(self.classes[j], float(self.probabilities[row, j])) for j in order]

    def answer(self, row: int) -> tuple[str | tuple[str, ...], float]:
        """The label of one row and its probability; where several are possible, all labels, and the smallest of their probabilities.

        An input without any label has the probability that its most probable one is absent.
        """
        if not self.link.independent:
            return self.top(row, 1)[0]
        chances = self.probabilities[row]
        chosen = np.flatnonzero(self.link.decisions(chances))
        return tuple(self.classes[j] for j in chosen), float(chances[chosen].min()) if len(chosen) else 1 - float(chances.max())

    def unsure(self, least: float | None) -> npt.NDArray[np.bool_]:
        """From which rows the model abstains, bool (n,): less sure than `least`, or unlike the training inputs; with None from none."""
        if least is None:
            return np.zeros(len(self), np.bool_)
        unlike = False if self.judgement is None or self.judgement.unlike is None else self.judgement.unlike
        return np.asarray((self.probabilities.astype(np.float64).max(axis=1, initial=0) < least) | unlike)

    def candidates(self, row: int) -> list[str] | None:
        """The classes in the prediction set of one row; None where the run cannot tell."""
        if self.judgement is None or self.judgement.sets is None:
            return None
        return [name for name, inside in zip(self.classes, self.judgement.sets[row], strict=True) if inside]


def columns(top: int, link: Link) -> tuple[Column, ...]:
    """The columns of tables, where the `top` most probable classes are named.

    The first pair of label and probability is the prediction; where any number of labels is possible, all labels of the image, and then
    the ranking begins with the second pair.
    """
    ranking: list[Column] = []
    for rank in range(0 if link.independent else 1, top) if top > 1 else ():
        place = rank + (2 if link.independent else 1)
        ranking += [
            Column(f"label_{place}", "text", at=("top", rank, "label"), writings=_TABLES),
            Column(f"probability_{place}", "number", at=("top", rank, "probability"), digits=_DIGITS, writings=_TABLES),
        ]
    return (
        Column("path", "name"),
        Column("label", "texts" if link.independent else "text"),
        Column("probability", "number", digits=_DIGITS),
        *([Column("top", "objects", digits=_DIGITS, writings=("json",))] if ranking else []),
        Column("error", "error"),
        Column("set", "texts"),
        Column("unlike", "truth"),
        Column("unlikeness", "number", writings=("json", "parquet")),
        Column("nearest", "text", at=("nearest", 0, "name")),
        *ranking,
    )


def record(
    name: Any, predictions: ClassPredictions, row: int, neighbour: Neighbour, *, top: int, least: float | None, nearest: int
) -> Record:
    """The record of one row; arguments as of `Task.records`."""
    label, probability = predictions.answer(row)
    known = predictions.judgement or Judgement()
    near = [] if known.nearest is None else [neighbour(index) for index in known.nearest[row, :nearest].tolist()]
    values: dict[str, Any] = {
        "label": label if isinstance(label, str) else list(label),
        "probability": probability,
        "top": [{"label": name, "probability": chance} for name, chance in predictions.top(row, top)],
        "set": predictions.candidates(row),
        "unlike": None if known.unlike is None else bool(known.unlike[row]),
        "unlikeness": None if known.unlikeness is None else float(known.unlikeness[row]),
        "nearest": [{"name": name, "label": label} for name, label in near],
    }
    doubt = "" if least is None else _doubt(values, least)
    line = "" if doubt else _line(values, independent=predictions.link.independent, top=top)
    if doubt:
        values = {name: value for name, value in values.items() if name not in ("label", "probability", "top")}
    return Record(name=printable(str(name)), values=values, line=line, error=doubt, abstained=bool(doubt))


def _doubt(values: Mapping[str, Any], least: float) -> str:
    """Why the model abstains; empty where it does not."""
    label, probability = values["top"][0]["label"], values["top"][0]["probability"]
    if probability < least:
        return f"no answer: {label} {probability:.4f} is not sure enough (less than {least:.4f})"
    return f"no answer: {label} {probability:.4f}, but unlike anything seen in training" if values["unlike"] else ""


def _line(values: Mapping[str, Any], *, independent: bool, top: int) -> str:
    """The prediction and the ranking, and what casts doubt on them."""
    named = [(entry["label"], entry["probability"]) for entry in values["top"]]
    if independent:
        named = [(";".join(values["label"]) or "(none)", values["probability"]), *(named if top > 1 else [])]
    line = "  ".join(f"{label} {probability:.4f}" for label, probability in named)
    candidates = values["set"]
    if values["unlike"]:
        near = values["nearest"][0]["name"] if values["nearest"] else ""
        return f"{line}  unlike anything seen in training" + (f"; nearest: {near}" if near else "")
    if independent or candidates is None or len(candidates) == 1:
        return line
    return f"{line}  may be {' or '.join(candidates)}" if candidates else f"{line}  no class fits well"
