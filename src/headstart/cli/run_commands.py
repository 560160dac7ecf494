"""``headstart evaluate``, ``compare`` and ``report``: what can be learned about saved runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import command, write_json
from headstart.cli.options import InferenceEngine, JsonFile, RunFolder
from headstart.cli.terminal import Terminal
from headstart.errors import ParameterError, RunError
from headstart.files import check_writable, writable
from headstart.settings import ListOptions

if TYPE_CHECKING:
    from headstart.run import Run


@command("evaluate", "Test a run on labelled images.")
def evaluate_command(
    terminal: Terminal,
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`; classes are matched by name.")],
    out: JsonFile = None,
    part: Annotated[str | None, typer.Option(metavar="train|val|test", help="Only this part of the data.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Write the confusion matrix as a picture.")] = None,
    engine: InferenceEngine = "auto",
    *,
    lists: ListOptions,
) -> None:
    """Test a run on labelled images: the saved model itself, from pixels to probabilities.

    Also how well its prediction sets, its confidence and its novelty detection hold on these images; with --out the whole curves. Images
    that the run has learned from are counted and reported; each use of its test part is recorded in the run.

    Of images from another world it says how far they are from the training images, and what adapting to them (`headstart fit --adapt-to`)
    would bring. That is also said of a folder of images without labels.

    Examples:
      headstart evaluate runs/photos newer_photos/
      headstart evaluate runs/photos list.csv --out evaluation.json
      headstart evaluate runs/photos runs/photos/split.csv --part test
      headstart evaluate runs/photos unlabelled_sketches/
    """
    from headstart.data.folders import is_unlabelled
    from headstart.evaluate import evaluate_run
    from headstart.run import is_run, load

    check_writable(out, picture)
    if not is_run(run) and is_run(Path(data)):
        raise RunError(f"{data} is the run: it comes first. Type: headstart evaluate {shlex.quote(data)} {shlex.quote(str(run))}")
    opened = load(run, engine=engine)
    terminal.speak_of(opened.modality)
    if is_unlabelled(data):
        _evaluate_unlabelled(terminal, opened, data, out, needing={"--part": part, "--picture": picture})
        return
    found = evaluate_run(opened, data, part=part, lists=lists, listener=terminal)
    if out is not None:
        write_json(out, found.to_dict())
    if picture is not None:
        from headstart.report import draw_png

        matrix = opened.task.matrix(found.evaluation)
        with writable(picture):
            draw_png(matrix, picture, heading=found.evaluation.summary())
    terminal.tell(*found.evaluation.lines(), *(f"  {sentence}" for sentence in found.sentences))
    terminal.result(found.evaluation.summary("test"), style="bold green")


def _evaluate_unlabelled(terminal: Terminal, run: Run, data: str, out: Path | None, *, needing: Mapping[str, object]) -> None:
    """Of images without labels; options that are `needing` labels are refused."""
    from headstart.evaluate import evaluate_unlabelled

    if asked := [name for name, value in needing.items() if value is not None]:
        raise ParameterError(f"{asked[0]} needs labels, and {data} is a folder of images without any: leave it out.")
    found = evaluate_unlabelled(run, data, listener=terminal)
    if out is not None:
        write_json(out, found.to_dict())
    terminal.tell(*found.sentences)
    terminal.result(found.summary(), style="bold green")


@command("compare", "Which of several runs is better, and whether that may be chance.")
def compare_command(
    terminal: Terminal,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="At least two folders that `headstart fit` wrote.")],
    out: JsonFile = None,
) -> None:
    """Compare runs, image by image, on the images that all of them were tested on: which is better, and whether that may be chance.

    Examples:
      headstart compare runs/photos runs/photos-2
      headstart compare runs/* --out comparison.json
    """
    from headstart.evaluate import compare_runs

    check_writable(out)
    comparison = compare_runs(runs)
    if out is not None:
        write_json(out, comparison.to_dict())
    terminal.tell(*comparison.lines()[:-1])
    terminal.result(comparison.summary(), style="bold green")


@command("report", "Rewrite the report of a run.")
def report_command(
    terminal: Terminal,
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here, and leave the run as it is.")] = None,
) -> None:
    """Rewrite report.html and MODEL_CARD.md of a run, with what has happened since: later uses of its test part.

    `headstart fit` writes both. Pictures of test and training images are shown if the images are still where they were.

    Examples:
      headstart report runs/photos
      headstart report runs/photos --out photos.html
    """
    check_writable(out)
    from headstart.report import model_card, page, report_of
    from headstart.run import load, replace_pages

    terminal.stage("Writing the report")
    opened = load(run, without_pages=True)
    terminal.speak_of(opened.modality)
    report = report_of(opened)
    if not report.pictured and opened.task.in_graph:  # a task without graph shows its inputs in tables
        terminal.warn("None of the test images is where the run recorded it, so the report shows no pictures.")
    html = page(report)
    if out is None:
        replace_pages(opened.path, {"report.html": html, "MODEL_CARD.md": model_card(report)})
    else:
        with writable(out):
            out.write_bytes(html.encode("utf-8", errors="replace"))
    terminal.result(str(out or opened.path / "report.html"))
