"""``headstart predict``."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT, Quiet, Verbose, application, guarded
from headstart.cli.terminal import TerminalListener

if TYPE_CHECKING:
    from headstart.bundle import Predictions, Run

_EXAMPLES = """\b
Examples:
  headstart predict runs/photos new.jpg
  headstart predict runs/photos new_photos/ --format csv > predictions.csv
  headstart predict runs/photos new.jpg --top 3 --format json
"""


@application.command(name="predict", epilog=_EXAMPLES, short_help="The classes of new images.")
@guarded
def predict_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images at any depth.")],
    form: Annotated[str, typer.Option("--format", metavar="table|csv|json", help="How to print.")] = "table",
    top: Annotated[int, typer.Option(metavar="K", help="How many classes of each image, the most probable first.")] = 1,
    accuracy: Annotated[
        float | None, typer.Option(metavar="A", help="Answer only where the model is right that often, such as 0.99; leave the rest open.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino or onnxruntime.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Predict the classes of new images.

    Beside the class: the classes that come into question, where that is more than one, and whether the image is unlike anything seen in
    training. CSV has the columns path,label,probability,error,set,unlike,nearest. Images that cannot be read are named on stderr and have
    an empty label; the exit code is 2 when that is all of them.
    """
    from headstart.bundle import load
    from headstart.datasets import list_images
    from headstart.errors import ParameterError

    if form not in _WRITERS:
        raise ParameterError(f"--format must be table, csv or json, got {form!r}.")
    if top < 1:
        raise ParameterError(f"--top must be at least 1, got {top}.")
    check_order(run, images)
    opened = load(run, engine=engine)
    least = None if accuracy is None else opened.threshold_for(accuracy)
    paths = list_images(images)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        if len(paths) > 1:
            listener.stage(f"Predicting {len(paths)} images")
        predictions = opened.predict(paths, progress=listener.progress if len(paths) > 1 else None)
        for error in predictions.refused:
            listener.warn(str(error))
    _WRITERS[form](_rows(paths, predictions, opened, min(top, len(predictions.classes)), least), predictions.multilabel)
    if not len(predictions):
        raise typer.Exit(BAD_INPUT)


def check_order(run: Path, images: list[Path]) -> None:
    """Say so when RUN does not come first."""
    from headstart.bundle import is_run
    from headstart.errors import RunError

    swapped = next((path for path in images if is_run(path)), None)
    if swapped is not None and not is_run(run):
        others = shlex.join(str(path) for path in (run, *(path for path in images if path != swapped)))
        raise RunError(f"{swapped} is the run: it comes first. Type: headstart predict {shlex.quote(str(swapped))} {others}")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One image: its most probable classes; or why it was refused, or left `open`.

    `candidates` are the classes of its prediction set, `nearest` the training image most like it; empty or None where the run cannot tell.
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


def _rows(paths: list[Path], predictions: Predictions, run: Run, top: int, least: float | None) -> list[_Row]:
    """A row for each image, in the order given; with `least`, no answer for one that the model is less sure of, or that it finds unlike."""
    judged, names = predictions.judgement, run.training_names
    rows: dict[int, _Row] = {}
    for row, index in enumerate(predictions.kept.tolist()):
        sets = None if judged is None or judged.sets is None else judged.sets[row]
        nearest = -1 if judged is None or judged.nearest is None else int(judged.nearest[row, 0])
        unlike = None if judged is None or judged.unlike is None else bool(judged.unlike[row])
        doubt = "" if least is None else _doubt(predictions, row, least, unlike=bool(unlike))
        rows[index] = _Row(
            path=paths[index],
            best=[] if doubt else _best(predictions, row, top),
            error=doubt,
            open=bool(doubt),
            candidates=None if sets is None else [name for name, inside in zip(predictions.classes, sets, strict=True) if inside],
            unlikeness=None if judged is None or judged.unlikeness is None else float(judged.unlikeness[row]),
            unlike=unlike,
            nearest=_from_here(run.path, names[nearest]) if 0 <= nearest < len(names) else "",
        )
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        rows[index] = _Row(path=paths[index], error=error.reason)
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
    if not predictions.multilabel:
        return predictions.top(row, top)
    labels = predictions.labels[row]
    chance = {name: float(value) for name, value in zip(predictions.classes, predictions.probabilities[row], strict=True)}
    joined = (";".join(labels), min((chance[name] for name in labels), default=1 - max(chance.values())))
    return [joined] if top == 1 else [joined, *predictions.top(row, top)]


def _write_csv(rows: list[_Row], multilabel: bool) -> None:
    width = max((len(row.best) for row in rows), default=1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    further = [f"{name}_{k}" for k in range(2, width + 1) for name in ("label", "probability")]
    writer.writerow(["path", "label", "probability", "error", "set", "unlike", "nearest", *further])
    for row in rows:
        cells = [cell for name, probability in row.best for cell in (name, f"{probability:.6f}")] or ["", ""]
        unlike = "" if row.unlike is None else "yes" if row.unlike else "no"
        writer.writerow([row.name, *cells[:2], row.error, ";".join(row.candidates or ()), unlike, row.nearest, *cells[2:]])
    sys.stdout.flush()


def _write_json(rows: list[_Row], multilabel: bool) -> None:
    entries = []
    for row in rows:
        entry: dict[str, object] = {"path": row.name}
        told = {"set": row.candidates, "unlike": row.unlike, "unlikeness": row.unlikeness, "nearest": row.nearest or None}
        if row.error:
            entry["error"] = row.error
        else:
            label, probability = row.best[0]
            entry |= {"label": [name for name in label.split(";") if name] if multilabel else label, "probability": round(probability, 6)}
            listed = row.best if not multilabel else row.best[1:]
            if listed and len(row.best) > 1:
                entry["top"] = [{"label": name, "probability": round(probability, 6)} for name, probability in listed]
        entry |= {key: value for key, value in told.items() if value is not None}
        entries.append(entry)
    print(json.dumps(entries, ensure_ascii=False, indent=1), flush=True)


def _write_table(rows: list[_Row], multilabel: bool) -> None:
    from headstart.evaluate.wording import pad, visible, width

    named = [(visible(row.name), row) for row in rows]
    column = min(60, max((width(name) for name, _ in named), default=0))
    for name, row in named:
        said = "  ".join(f"{visible(label) or '(none)'} {probability:.4f}" for label, probability in row.best)
        answer = said + visible(_doubts(row, multilabel))
        print(f"{pad(name, column)}  {answer if not row.error else visible(row.error) if row.open else f'refused: {visible(row.error)}'}")
    sys.stdout.flush()


def _doubts(row: _Row, multilabel: bool) -> str:
    """What speaks against believing the first answer, if anything does."""
    if row.unlike:
        return "  unlike anything seen in training" + (f"; nearest: {row.nearest}" if row.nearest else "")
    if multilabel or row.candidates is None or len(row.candidates) == 1:
        return ""
    return f"  may be {' or '.join(row.candidates)}" if row.candidates else "  no class fits well"


_WRITERS = {"table": _write_table, "csv": _write_csv, "json": _write_json}
