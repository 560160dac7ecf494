"""``headstart predict``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT, application, guarded
from headstart.cli.batch_options import BatchOptions, PredictOptions, run_batch
from headstart.cli.options import Quiet, Verbose
from headstart.cli.terminal import TerminalListener

if TYPE_CHECKING:
    from headstart.records import Column, Record

_EXAMPLES = """\b
Examples:
  headstart predict runs/photos new.jpg
  headstart predict runs/photos new_photos/ --format csv > predictions.csv
  headstart predict runs/photos new.jpg --top 3 --format json
  headstart predict runs/photos archive/ --batch --out archive.parquet --resume
"""


@application.command(name="predict", epilog=_EXAMPLES, short_help="The classes of new images.")
@guarded
def predict_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images at any depth.")],
    options: PredictOptions,
    batch: BatchOptions,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Predict the classes of new images.

    Beside the class: the prediction set, where it holds more than one class, and whether the image is unlike anything seen in training.
    CSV has the columns path,label,probability,error,set,unlike,nearest. Images that cannot be read are named on stderr and have
    an empty label; the exit code is 2 when that is all of them.

    For folders of any size: --batch writes the same columns into a file, in bounded memory, and --resume continues after any interruption.
    """
    from headstart.data import list_images
    from headstart.errors import ParameterError
    from headstart.run import load

    if options.form is not None and options.form not in _WRITERS:
        raise ParameterError(f"--format must be table, csv or json, got {options.form!r}.")
    if options.top < 1:
        raise ParameterError(f"--top must be at least 1, got {options.top}.")
    check_order(run, images)
    if batch.batch or batch.merge:
        run_batch(run, images, batch, options, quiet=quiet, verbose=verbose)
        return
    batch.check_alone()
    opened = load(run, engine=options.engine)
    least = None if options.accuracy is None else opened.threshold_for(options.accuracy)
    paths = list_images(images)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        if len(paths) > 1:
            listener.stage(f"Predicting {len(paths)} images")
        predictions = opened.predict(paths, progress=listener.progress if len(paths) > 1 else None)
        for error in predictions.refused:
            listener.warn(str(error))
    records = opened.records(paths, predictions, top=options.top, least=least)
    _WRITERS[options.form or "table"](opened.columns(top=options.top), records)
    if not len(predictions):
        raise typer.Exit(BAD_INPUT)


def check_order(run: Path, images: list[Path]) -> None:
    """Say so when RUN does not come first."""
    from headstart.errors import RunError
    from headstart.run import is_run

    swapped = next((path for path in images if is_run(path)), None)
    if swapped is not None and not is_run(run):
        others = shlex.join(str(path) for path in (run, *(path for path in images if path != swapped)))
        raise RunError(f"{swapped} is the run: it comes first. Type: headstart predict {shlex.quote(str(swapped))} {others}")


def _print_csv(columns: tuple[Column, ...], records: list[Record]) -> None:
    from headstart.records import csv_header, csv_records

    print(csv_header(columns) + csv_records(columns, records), end="", flush=True)


def _print_json(columns: tuple[Column, ...], records: list[Record]) -> None:
    from headstart.records import json_object

    print(json.dumps([json_object(columns, record) for record in records], ensure_ascii=False, indent=1), flush=True)


def _print_table(columns: tuple[Column, ...], records: list[Record]) -> None:
    from headstart.text import pad, visible, width

    named = [(visible(record.name), record) for record in records]
    column = min(60, max((width(name) for name, _ in named), default=0))
    for name, record in named:
        refused = "refused: " if record.error and not record.abstained else ""
        print(f"{pad(name, column)}  {refused}{visible(record.error or record.line)}")
    sys.stdout.flush()


_WRITERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
