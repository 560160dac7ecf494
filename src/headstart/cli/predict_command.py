"""``headstart predict`` and ``headstart explain``: what a run says of new images, and why."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT, command
from headstart.cli.options import Images, InferenceEngine, Inputs, OptionsOf, RunFolder, Typed
from headstart.cli.terminal import Terminal
from headstart.errors import ParameterError
from headstart.files import WRITTEN, is_ours, writable, write_file
from headstart.records import Column, Record, csv_header, csv_records, json_object
from headstart.settings import ListOptions
from headstart.settings.batch import TABLE_SUFFIXES, BatchSettings
from headstart.settings.field import PATH, SWITCH, TEXT, Settings, one_of, option, whole
from headstart.text import pad, plural, visible, width

if TYPE_CHECKING:
    from headstart.data.inputs import Given
    from headstart.run import Run
    from headstart.tasks import FileOptions


_TABLES, _DOCUMENTS, _EACH = ("table", "csv", "json"), ("coco", "coco-polygons"), ("voc", "yolo")


@dataclass(frozen=True, kw_only=True)
class _Predict(BatchSettings):
    """How images are predicted, what is printed or written, and whether that is a batch job."""

    format: str | None = option(
        None, "How to print; coco is for boxes and masks (run lengths, or polygons), voc and yolo are files with boxes, in --out DIR.",
        one_of(*_TABLES, *_DOCUMENTS, *_EACH), metavar="|".join((*_TABLES, *_DOCUMENTS, *_EACH)), shown="table",
    )  # fmt: skip
    out: Path | None = option(
        None, "Folder for predictions that are pictures, such as masks, or files; of others the file for what is printed; of --batch and "
        "--merge the table: .parquet, .csv or .jsonl; of boxes also .json, a list for COCO.", PATH, metavar="DIR|FILE",
    )  # fmt: skip
    draw: Path | None = option(None, "Folder for each image with its prediction over it, such as boxes.", PATH, metavar="DIR")
    overlay: bool = option(False, "Of --out DIR: write each image with its prediction over it as well.", SWITCH)
    batch: bool = option(False, "Write a table to --out, for folders of any size.", SWITCH)
    ray: str | None = option(
        None, "Of --batch: work on a Ray cluster; every node must see RUN and the images.", TEXT, metavar="ADDRESS|auto|local"
    )
    merge: bool = option(False, "Put the tables of all shards, given in place of images, together into --out.", SWITCH)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_batch = {"--out": self._table, "--resume": self.resume, "--shard": self.shard, "--ray": self.ray}
        if self.draw is not None and (self.batch or self.merge):
            raise ParameterError("--draw is not for --batch and --merge, which write a table. Leave --draw out.")
        if self.format in _EACH and self.out is None:
            raise ParameterError(f"--format {self.format} writes a file for each image: give a folder for them as --out DIR.")
        if self.overlay and (self.batch or self.merge or self.out is None):
            raise ParameterError(
                "--overlay is for pictures, which are written into a folder: give it as --out DIR, without --batch or --merge."
            )
        if not self.batch and not self.merge:
            if lonely := next((name for name, value in of_batch.items() if value), None):
                raise ParameterError(f"{lonely} belongs to --batch, which writes a table: add --batch, or leave {lonely} out.")
        elif self.out is None:
            raise ParameterError("--batch and --merge write a table: say where, for example --out predictions.parquet.")
        elif self.format is not None:
            raise ParameterError(
                f"--format says how to print, and --batch writes what the suffix of --out says ({self.out}). Leave --format out."
            )
        elif self.merge and (self.shard or self.ray or self.resume or self.confidence is not None):
            raise ParameterError("--merge reads tables that are done: leave --shard, --ray, --resume and --confidence out.")

    @property
    def _table(self) -> Path | None:
        """What --out names, where that is a table; with --format it is a file for what would be printed."""
        return self.out if self.out is not None and self.format is None and self.out.suffix.lower() in TABLE_SUFFIXES else None


@command("predict", "What a run says of new images.")
def predict_command(
    terminal: Terminal, run: RunFolder, inputs: Inputs, *, how: _Predict,
    lists: Annotated[Typed, OptionsOf((ListOptions,), only=("columns", "image_root"))],
) -> None:  # fmt: skip
    """Predict new images: their classes, or what else the run has learned.

    Beside the class: the prediction set, where it holds more than one class, and whether the image is unlike anything seen in training.
    CSV has the columns path,label,probability,error,set,unlike,nearest. Images that cannot be read are named on stderr and have
    an empty label; the exit code is 2 when that is all of them.

    A run that finds things says where: each with its class, its confidence and its box in pixels; with --draw DIR also each image with
    its boxes, with --format voc or yolo and --out DIR a file for each image.

    A run that says which class each pixel has writes masks: with --out DIR a PNG for each image, of its size, whose values are positions of
    classes; with --format coco all of them as run lengths, and with --format coco-polygons as outlines.

    For folders of any size: --batch writes the same columns into a file, in bounded memory, and --resume continues after any interruption.

    Examples:
      headstart predict runs/photos new.jpg
      headstart predict runs/photos new_photos/ --format csv > predictions.csv
      headstart predict runs/photos new.jpg --top 3 --format json
      headstart predict runs/photos archive/ --batch --out archive.parquet --resume
      headstart predict runs/people photos/ --out masks/ --overlay
      headstart predict runs/animals photos/ --format coco --confidence 0.4 --draw drawn/
      headstart predict runs/people photos/ --format coco-polygons > people.json
    """
    from headstart.data.inputs import Given
    from headstart.run import load
    from headstart.tasks import FileOptions

    _check_order("predict", run, [Path(one) for one in inputs if one])
    options = ListOptions(**lists)
    if how.out is not None and (how.batch or how.merge):
        _run_batch(run, inputs, how.out, how, options, terminal)
        return
    opened = load(run, engine=how.engine)
    if how.format in (*_DOCUMENTS, *_EACH) and how.format not in (*opened.task.documents, *opened.task.forms):
        opened.task.document(how.format, [], opened.manifest.state)  # refuses it
    least = opened.least(confidence=how.confidence, accuracy=how.accuracy)
    asked = FileOptions(overlay=how.overlay, form=how.format if how.format in _EACH else "", least=least)
    if (folder := _folder(opened, how, asked)) is not None:
        _write_pictures(
            opened, _paths(inputs, options, terminal), folder, replace(asked, overlay=asked.overlay or folder == how.draw), how, terminal
        )
    else:
        given = Given.of(opened.modality, inputs, options, terminal, lines=opened.task.lines)
        _print(opened, given, how, terminal, least=least)


def _paths(typed: list[str], options: ListOptions, terminal: Terminal, *, named: bool = True) -> list[Path]:
    """The paths of images that were typed; with `named`, in the place of a list those that it names."""
    from headstart.data import read_paths
    from headstart.data.listing import typed_path
    from headstart.data.tables import READERS

    paths = [typed_path(one) for one in typed]
    if not named:
        return paths
    found = [read_paths(path, options, terminal) if path.suffix.lower() in READERS and path.is_file() else [path] for path in paths]
    return [path for some in found for path in some]


def _folder(run: Run, how: _Predict, asked: FileOptions) -> Path | None:
    """The folder for files of each image; None where what is said of all is printed, or written into one file."""
    pictures = how.out is not None and (how.overlay or bool(run.task.suffixes(asked)))
    if how.draw is not None:
        if pictures:
            raise ParameterError("--draw DIR and --out DIR are both for files of each image. Give one, or --out DIR with --overlay.")
        return how.draw
    if pictures:
        return how.out
    if how.out is not None and not how.out.suffix:
        raise ParameterError(
            f"--out {how.out}: a folder is for pictures, and the task {run.manifest.task} predicts none. For a table add --batch, and "
            "let --out end in .parquet, .csv or .jsonl; or name a file, such as predictions.json, with --format."
        )
    return None


def _print(run: Run, given: Given, how: _Predict, terminal: Terminal, *, least: float | None) -> None:
    """Predict, and tell what is said of the inputs."""
    inputs, noun = given.inputs, run.modality.noun
    if len(inputs) > 1:
        terminal.stage(f"Predicting {plural(len(inputs), noun)}")
    predictions = run.predict(inputs, progress=terminal.progress if len(inputs) > 1 else None, warn=terminal.warn)
    records = run.records(given.names, predictions, top=how.top, least=least)
    if warning := run.shift(predictions.novel, len(predictions)).warning(f"{noun}s"):
        terminal.warn(warning)
    _tell(run, records, how, terminal)
    if not len(predictions):
        raise typer.Exit(BAD_INPUT)


def _tell(run: Run, records: Sequence[Record], how: _Predict, terminal: Terminal) -> None:
    """Print the records, or write what would be printed into the file --out."""
    text = _text(run, records, how)
    if how.out is None:
        terminal.result(text)
        return
    if how.out.is_dir():
        raise ParameterError(
            f"--out {how.out}: is a folder, and what a run of the task {run.manifest.task} says goes into one file. Name it."
        )
    with writable(how.out):
        write_file(how.out, f"{text}\n".encode())
    terminal.say(f"{plural(len(records), run.modality.noun)} in {how.out}")


def _text(run: Run, records: Sequence[Record], how: _Predict) -> str:
    """Records in the format that is asked for."""
    form = how.format or run.task.printed
    if form in run.task.documents:
        return run.task.document(form, records, run.manifest.state)
    return _WRITERS[form](run.columns(top=how.top), list(records))


def _write_pictures(run: Run, images: list[Path], out: Path, asked: FileOptions, how: _Predict, terminal: Terminal) -> None:
    """Write files into a folder; what is printed beside them, or written there or to --out, is what --format says."""
    from headstart.batch import predict_pictures

    result = predict_pictures(run, images, out=out, asked=asked, listener=terminal, top=how.top)
    if warning := run.shift(result.novel, result.predicted).warning():
        terminal.warn(warning)
    if out != how.out and (how.out is not None or how.format is not None):
        _tell(run, result.records, how, terminal)
    elif how.format in _DOCUMENTS and result.predicted:
        document = out / "annotations.json"
        with writable(document):
            write_file(document, _text(run, result.records, how).encode())
    elif how.format is not None and not asked.form:
        terminal.result(_text(run, result.records, how))
    refused = len(result.records) - result.predicted
    said = f"{plural(result.predicted, 'image')}: {plural(len(result.files), 'file')} in {out}" + (
        f"; {refused} refused" if refused else ""
    )
    (terminal.say if how.format in _TABLES else terminal.result)(said)
    if not result.predicted:
        raise typer.Exit(BAD_INPUT)


def _run_batch(run: Path, typed: list[str], out: Path, how: _Predict, lists: ListOptions, terminal: Terminal) -> None:
    from headstart.batch import merge, on_ray, predict_folder
    from headstart.data.inputs import are_files
    from headstart.modalities import modality_named
    from headstart.run.manifest import read_manifest

    modality = modality_named(read_manifest(run).modality)
    terminal.speak_of(modality)
    if how.merge:
        result = merge(run, _paths(typed, lists, terminal, named=False), out=out)
    else:
        sources = _paths(typed, lists, terminal) if are_files(modality) else list(map(Path, typed))
        compute = None if how.ray is None else on_ray(how.ray, sources, listener=terminal)
        result = predict_folder(run, sources, out=out, settings=how, listener=terminal, compute=compute, lists=lists)
    if warning := result.shift.warning():
        terminal.warn(warning)
    refused = f", {result.refused} of them refused" if result.refused else ""
    kept = result.images - result.computed
    now = f" ({kept} found from before)" if result.computed and kept else ""
    terminal.result(f"{result.images} images{refused}{now} in {result.out}")
    if not how.merge and 0 < result.images == result.refused:
        raise typer.Exit(BAD_INPUT)


def _check_order(name: str, run: Path, images: list[Path]) -> None:
    """Say so when RUN does not come first."""
    from headstart.errors import RunError
    from headstart.run import is_run

    swapped = next((path for path in images if is_run(path)), None)
    if swapped is not None and not is_run(run):
        others = shlex.join(str(path) for path in (run, *(path for path in images if path != swapped)))
        raise RunError(f"{swapped} is the run: it comes first. Type: headstart {name} {shlex.quote(str(swapped))} {others}")


def _csv(columns: tuple[Column, ...], records: list[Record]) -> str:
    return (csv_header(columns) + csv_records(columns, records)).removesuffix("\n")


def _json(columns: tuple[Column, ...], records: list[Record]) -> str:
    return json.dumps([json_object(columns, record) for record in records], ensure_ascii=False, indent=1)


def _table(columns: tuple[Column, ...], records: list[Record]) -> str:
    named = [(visible(record.name), record) for record in records]
    column = min(60, max((width(name) for name, _ in named), default=0))
    lines = []
    for name, record in named:
        refused = "refused: " if record.error and not record.abstained else ""
        lines.append(f"{pad(name, column)}  {refused}{visible(record.error or record.line)}")
    return "\n".join(lines)


_WRITERS = {"table": _table, "csv": _csv, "json": _json}


@dataclass(frozen=True, kw_only=True)
class _Explain(Settings):
    """What is explained, how, and where the pictures go."""

    out: Path = option(Path("explained"), "Folder for the pictures; created if needed.", PATH, metavar="DIR")
    name: str | None = option(
        None, "The class whose evidence to show. [default: the most probable class; of masks the largest, of boxes that of the surest]",
        TEXT,
        flag="--class", metavar="NAME",
    )  # fmt: skip
    label: str | None = option(
        None, "The column of labels, where the run has several. [default: that of --class, or the first]", TEXT, metavar="NAME"
    )  # fmt: skip
    method: str = option(
        "auto", "auto is occlusion: 65 passes of the network per image. fast is cells: one pass; or 17 where that does not fit.", TEXT,
        metavar="auto|fast|cells|occlusion",
    )  # fmt: skip
    nearest: int = option(5, "How many of the nearest training images to name; the picture has five.", whole(0), metavar="K")


@command("explain", "Why: heat maps, and the nearest training images.")
def explain_command(terminal: Terminal, run: RunFolder, images: Images, *, how: _Explain, engine: InferenceEngine = "auto") -> None:
    """Show where in an image the evidence for its class lies, and which training images are nearest.

    For each image a picture is written: the image, its heat map, and the nearest training images with their labels. Of a run that learned
    masks, the region of a class is explained; of boxes, the surest one, or that of a class; of anomaly detection, the picture shows its own
    map.

    Examples:
      headstart explain runs/photos new.jpg
      headstart explain runs/photos new.jpg --class dog
      headstart explain runs/photos new_photos/ --out explained/
    """
    from headstart.data import list_images
    from headstart.explanation import Explanation, explain

    _check_order("explain", run, images)
    paths = list_images(images, terminal)
    explanations = explain(run, paths, target=how.name, method=how.method, nearest_images=how.nearest, engine=engine, column=how.label)
    if how.out.exists() and not how.out.is_dir():
        raise ParameterError(f"--out {how.out}: is a file. Give the name of a folder.")
    with writable(how.out):
        how.out.mkdir(parents=True, exist_ok=True)
    if len(paths) > 1:
        terminal.stage(f"Explaining {len(paths)} images")
    written: set[Path] = set()
    for done, (path, found) in enumerate(zip(paths, explanations, strict=True), 1):
        if isinstance(found, Explanation):
            file = _free_name(how.out, path, written)
            with writable(file):
                found.picture().save(file, quality=90, subsampling=0, comment=WRITTEN)
            terminal.result(f"{_shown(path)}  {visible(found.line)}  {_shown(file)}")
            for one in found.neighbours:
                terminal.tell(f"  similarity {one.similarity:.2f}  {visible(one.label)}  {_shown(Path(os.path.normpath(one.path)))}")
        else:
            terminal.warn(str(found))
        if len(paths) > 1:
            terminal.progress(done, len(paths))
    if not written:
        raise typer.Exit(BAD_INPUT)


def _free_name(out: Path, path: Path, written: set[Path]) -> Path:
    """A name for the picture of an image, different for each image of one command, and of no file but a picture from an earlier one."""
    number, file = 2, out / f"{path.stem}.jpg"
    while file in written or (file.exists() and not is_ours(file)):
        file = out / f"{path.stem}-{number}.jpg"
        number += 1
    written.add(file)
    return file


def _shown(path: Path) -> str:
    """A path that can be printed."""
    return visible(str(path).encode("utf-8", "replace").decode("utf-8"))
