"""``headstart evaluate``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded, writable, write_json
from headstart.cli.terminal import TerminalListener, print_result

_EXAMPLES = """\b
Examples:
  headstart evaluate runs/photos newer_photos/
  headstart evaluate runs/photos list.csv --out evaluation.json
  headstart evaluate runs/photos runs/photos/split.csv --part test
"""


@application.command(name="evaluate", epilog=_EXAMPLES, short_help="Test a run on labelled images.")
@guarded
def evaluate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`; classes are matched by name.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    part: Annotated[str | None, typer.Option(metavar="train|val|test", help="Only this part of the data.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Write the confusion matrix as a picture.")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino or onnxruntime.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Test a run on labelled images: the saved model itself, from pixels to probabilities."""
    from headstart.bundle import is_run, load
    from headstart.datasets import read_dataset
    from headstart.errors import DataError, ParameterError, RunError

    if part not in (None, "train", "val", "test"):
        raise ParameterError(f"--part must be train, val or test, got {part!r}.")
    check_writable(out, picture)
    if not is_run(run) and is_run(Path(data)):
        raise RunError(f"{data} is the run: it comes first. Type: headstart evaluate {shlex.quote(data)} {shlex.quote(str(run))}")
    opened = load(run, engine=engine)
    dataset = read_dataset(data, classes=opened.classes)
    if part is not None:
        dataset = dataset.take(dataset.part(part))
    if not len(dataset):
        raise DataError(f"{data}: no images in the part {part!r}.")
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        for note in dataset.notes:
            listener.say(note)
        listener.stage(f"Predicting {len(dataset)} images")
        evaluation, predictions = opened.evaluate(dataset, progress=listener.progress)
        for error in predictions.refused:
            listener.warn(f"{error} (left out)")
    if out is not None:
        write_json(out, evaluation.to_dict())
    if picture is not None:
        from headstart.report import confusion_matrix_png

        with writable(picture):
            confusion_matrix_png(evaluation, picture)
    if not quiet:
        for line in evaluation.lines():
            print_result(line)
    print_result(evaluation.summary("test"), style="bold green")
