"""``headstart predict``."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT, Quiet, Verbose, application, guarded
from headstart.cli.terminal import TerminalListener

if TYPE_CHECKING:
    from headstart.bundle import Predictions

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
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino or onnxruntime.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Predict the classes of new images.

    CSV begins with the columns path,label,probability. Images that cannot be read are named on stderr and have an empty label; the exit
    code is 2 when that is all of them.
    """
    from headstart.bundle import load
    from headstart.datasets import list_images
    from headstart.errors import ParameterError

    if form not in _WRITERS:
        raise ParameterError(f"--format must be table, csv or json, got {form!r}.")
    if top < 1:
        raise ParameterError(f"--top must be at least 1, got {top}.")
    _check_order(run, images)
    opened = load(run, engine=engine)
    paths = list_images(images)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        if len(paths) > 1:
            listener.stage(f"Predicting {len(paths)} images")
        predictions = opened.predict(paths, progress=listener.progress if len(paths) > 1 else None)
        for error in predictions.refused:
            listener.warn(str(error))
    _WRITERS[form](paths, predictions, min(top, len(predictions.classes)))
    if not len(predictions):
        raise typer.Exit(BAD_INPUT)


def _check_order(run: Path, images: list[Path]) -> None:
    """Say so when RUN does not come first."""
    from headstart.bundle import is_run
    from headstart.errors import RunError

    swapped = next((path for path in images if is_run(path)), None)
    if swapped is not None and not is_run(run):
        others = shlex.join(str(path) for path in (run, *(path for path in images if path != swapped)))
        raise RunError(f"{swapped} is the run: it comes first. Type: headstart predict {shlex.quote(str(swapped))} {others}")


def _rows(paths: list[Path], predictions: Predictions, top: int) -> list[tuple[Path, list[tuple[str, float]], str]]:
    """(path, most probable classes, reason of a refusal) for each image, in the order given."""
    rows: dict[int, tuple[Path, list[tuple[str, float]], str]] = {}
    for row, index in enumerate(predictions.kept.tolist()):
        rows[index] = (paths[index], _best(predictions, row, top), "")
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        rows[index] = (paths[index], [], error.reason)
    return [rows[index] for index in sorted(rows)]


def _best(predictions: Predictions, row: int, top: int) -> list[tuple[str, float]]:
    """The classes to print first: the most probable; in multi-label runs those above one half, joined, before them."""
    if not predictions.multilabel:
        return predictions.top(row, top)
    labels = predictions.labels[row]
    chance = {name: float(value) for name, value in zip(predictions.classes, predictions.probabilities[row], strict=True)}
    joined = (";".join(labels), min((chance[name] for name in labels), default=1 - max(chance.values())))
    return [joined] if top == 1 else [joined, *predictions.top(row, top)]


def _write_csv(paths: list[Path], predictions: Predictions, top: int) -> None:
    rows = _rows(paths, predictions, top)
    width = max((len(best) for _, best, _ in rows), default=1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["path", "label", "probability", "error", *(f"{name}_{k}" for k in range(2, width + 1) for name in ("label", "probability"))]
    )
    for path, best, error in rows:
        cells = [cell for name, probability in best for cell in (name, f"{probability:.6f}")] or ["", ""]
        writer.writerow([_text(path), *cells[:2], error, *cells[2:]])
    sys.stdout.flush()


def _write_json(paths: list[Path], predictions: Predictions, top: int) -> None:
    entries = []
    for path, best, error in _rows(paths, predictions, top):
        entry: dict[str, object] = {"path": _text(path)}
        if error:
            entry["error"] = error
        else:
            label = best[0][0].split(";") if predictions.multilabel else best[0][0]
            entry |= {"label": [name for name in label if name] if predictions.multilabel else label, "probability": round(best[0][1], 6)}
            listed = best if not predictions.multilabel else best[1:]
            if top > 1:
                entry["top"] = [{"label": name, "probability": round(probability, 6)} for name, probability in listed]
        entries.append(entry)
    print(json.dumps(entries, ensure_ascii=False, indent=1), flush=True)


def _write_table(paths: list[Path], predictions: Predictions, top: int) -> None:
    from headstart.evaluate.wording import pad, visible, width

    rows = [(visible(_text(path)), best, error) for path, best, error in _rows(paths, predictions, top)]
    column = min(60, max((width(path) for path, _, _ in rows), default=0))
    for path, best, error in rows:
        said = "  ".join(f"{visible(name) or '(none)'} {probability:.4f}" for name, probability in best)
        print(f"{pad(path, column)}  {said or f'refused: {visible(error)}'}")
    sys.stdout.flush()


def _text(path: Path) -> str:
    """A path that can be printed even where its bytes are not valid UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


_WRITERS = {"table": _write_table, "csv": _write_csv, "json": _write_json}
