"""The decoder of classification: predictions as records, the same for the command line, batch jobs, the service and its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.metrics import Link
from headstart.records import DEFAULT_KIND, Column, Record, Writing
from headstart.tasks.classification.predictions import ClassPredictions
from headstart.tasks.predictions import Judgement
from headstart.text import printable

if TYPE_CHECKING:
    from headstart.reliability import Reliability

KIND = DEFAULT_KIND
_DIGITS = 6  # of probabilities
_TABLES: tuple[Writing, ...] = ("csv", "parquet")


def columns(classes: Sequence[str], link: Link, top: int = 1) -> tuple[Column, ...]:
    """The columns of tables, where the `top` most probable classes are named.

    The first pair of label and probability is the prediction; where any number of labels is possible, all labels of the image, and then
    the ranking begins with the second pair.
    """
    top = min(top, len(classes))
    ranked = range(top if link.independent else top - 1) if top > 1 else ()
    first = 0 if link.independent else 1
    ranking = [
        column
        for rank in ranked
        for column in (
            Column(f"label_{rank + 2}", "text", at=("top", first + rank, "label"), writings=_TABLES),
            Column(f"probability_{rank + 2}", "number", at=("top", first + rank, "probability"), digits=_DIGITS, writings=_TABLES),
        )
    ]  # fmt: skip
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


def records(
    names: Sequence[Any],
    predictions: ClassPredictions,
    neighbour: Callable[[int], tuple[str, str]],
    *,
    top: int = 1,
    least: float | None = None,
    nearest: int = 1,
) -> list[Record]:
    """A record for each image, in the order of `names`.

    Args:
        names: paths, or what clients call the images that `predictions` is about.
        predictions: of the run.
        neighbour: from the position of a training image to its name and label; several labels are joined with ``;``.
        top: how many of the most probable classes to name.
        least: abstain where the probability is below this, or the image is unlike the training images; None to abstain never.
        nearest: how many of the nearest training images to name.
    """
    found: dict[int, Record] = {}
    top = min(top, len(predictions.classes))
    for row, index in enumerate(predictions.kept.tolist()):
        values = _values(predictions, row, top) | _reliability(predictions, row, neighbour, nearest)
        doubt = "" if least is None else _doubt(values, least)
        line = "" if doubt else _line(values, independent=predictions.link.independent, top=top)
        if doubt:
            values = {name: value for name, value in values.items() if name not in ("label", "probability", "top")}
        found[index] = Record(name=printable(str(names[index])), kind=KIND, values=values, line=line, error=doubt, abstained=bool(doubt))
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        found[index] = Record(name=printable(str(names[index])), kind=KIND, error=error.reason)
    return [found[index] for index in sorted(found)]


def _values(predictions: ClassPredictions, row: int, top: int) -> dict[str, Any]:
    label, probability = predictions.answer(row)
    ranked = [{"label": name, "probability": chance} for name, chance in predictions.top(row, top)]
    return {"label": label if isinstance(label, str) else list(label), "probability": probability, "top": ranked}


def _reliability(predictions: ClassPredictions, row: int, neighbour: Callable[[int], tuple[str, str]], count: int) -> dict[str, Any]:
    known = predictions.judgement or Judgement()
    near = [] if known.nearest is None else [neighbour(index) for index in known.nearest[row, :count].tolist()]
    return {
        "set": None if known.sets is None else [predictions.classes[column] for column in np.flatnonzero(known.sets[row])],
        "unlike": None if known.unlike is None else bool(known.unlike[row]),
        "unlikeness": None if known.unlikeness is None else float(known.unlikeness[row]),
        "nearest": [{"name": name, "label": label} for name, label in near],
    }


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


def tensors(predictions: ClassPredictions) -> dict[str, NDArray[Any] | list[str]]:
    """What is known of n images beside the outputs of the network, as arrays with n rows and lists of n texts, by name."""
    known = predictions.judgement or Judgement()
    labels = [";".join(label) if isinstance(label, tuple) else label for label in predictions.labels]
    found: dict[str, NDArray[Any] | list[str] | None] = {
        "labels": labels,
        "sets": known.sets,
        "unlike": known.unlike,
        "unlikeness": None if known.unlikeness is None else known.unlikeness.astype(np.float32),
    }
    return {name: value for name, value in found.items() if value is not None}


def facts(classes: Sequence[str], link: Link, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
    """What the service tells about a model of this task."""
    sets = None if reliability is None else reliability.sets
    return {
        "classes": list(classes),
        "multilabel": link.independent,
        "accuracy": metrics.get("test_accuracy"),
        "accuracy_interval": metrics.get("test_accuracy_interval"),
        "test_images": metrics.get("test_images"),
        "coverage": None if sets is None else sets.coverage,
    }
