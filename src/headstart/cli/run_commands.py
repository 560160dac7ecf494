"""``headstart evaluate``, ``compare`` and ``report``: what can be learned about saved runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import application, check_writable, guarded, writable, write_json
from headstart.cli.options import InferenceEngine, Quiet, RunFolder, Verbose
from headstart.cli.terminal import TerminalListener, print_result
from headstart.errors import RunError

# headstart evaluate ------------------------------------------------------------------------------------------------------------------

_EVALUATE_EXAMPLES = """\b
Examples:
  headstart evaluate runs/photos newer_photos/
  headstart evaluate runs/photos list.csv --out evaluation.json
  headstart evaluate runs/photos runs/photos/split.csv --part test
"""


@application.command(name="evaluate", epilog=_EVALUATE_EXAMPLES, short_help="Test a run on labelled images.")
@guarded
def evaluate_command(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`; classes are matched by name.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    part: Annotated[str | None, typer.Option(metavar="train|val|test", help="Only this part of the data.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Write the confusion matrix as a picture.")] = None,
    engine: InferenceEngine = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Test a run on labelled images: the saved model itself, from pixels to probabilities.

    Also how well its prediction sets, its confidence and its novelty detection hold on these images; with --out the whole curves. Images
    that the run has learned from are counted and reported; each use of its test part is recorded in the run.
    """
    from headstart.evaluate import evaluate_run
    from headstart.run import is_run, load

    check_writable(out, picture)
    if not is_run(run) and is_run(Path(data)):
        raise RunError(f"{data} is the run: it comes first. Type: headstart evaluate {shlex.quote(data)} {shlex.quote(str(run))}")
    opened = load(run, engine=engine)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        found = evaluate_run(opened, data, part=part, listener=listener)
    if out is not None:
        write_json(out, found.to_dict())
    if picture is not None:
        from headstart.report import draw_png

        matrix = opened.task.matrix(found.evaluation)
        with writable(picture):
            draw_png(matrix, picture, heading=found.evaluation.summary())
    for line in [] if quiet else (*found.evaluation.lines(), *(f"  {sentence}" for sentence in found.sentences)):
        print_result(line)
    print_result(found.evaluation.summary("test"), style="bold green")


# headstart compare -------------------------------------------------------------------------------------------------------------------

_COMPARE_EXAMPLES = """\b
Examples:
  headstart compare runs/photos runs/photos-2
  headstart compare runs/* --out comparison.json
"""


@application.command(
    name="compare", epilog=_COMPARE_EXAMPLES, short_help="Which of several runs is better, and whether that may be chance."
)
@guarded
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="At least two folders that `headstart fit` wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs, image by image, on the images that all of them were tested on: which is better, and whether that may be chance."""
    from headstart.evaluate import compare_runs

    check_writable(out)
    comparison = compare_runs(runs)
    if out is not None:
        write_json(out, comparison.to_dict())
    for line in [] if quiet else comparison.lines()[:-1]:
        print_result(line)
    print_result(comparison.summary(), style="bold green")


# headstart report --------------------------------------------------------------------------------------------------------------------

_REPORT_EXAMPLES = """\b
Examples:
  headstart report runs/photos
  headstart report runs/photos --out photos.html
"""


@application.command(name="report", epilog=_REPORT_EXAMPLES, short_help="Rewrite the report of a run.")
@guarded
def report_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here, and leave the run as it is.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite report.html and MODEL_CARD.md of a run, with what has happened since: later uses of its test part.

    `headstart fit` writes both. Pictures of test and training images are shown if the images are still where they were.
    """
    check_writable(out)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        from headstart.report import model_card, page, report_of
        from headstart.run import load, replace_pages

        listener.stage("Writing the report")
        opened = load(run, without_pages=True)
        report = report_of(opened)
        if not report.pictured:
            listener.warn("None of the test images is where the run recorded it, so the report shows no pictures.")
        html = page(report)
        if out is None:
            replace_pages(opened.path, {"report.html": html, "MODEL_CARD.md": model_card(report)})
        else:
            with writable(out):
                out.write_bytes(html.encode("utf-8", errors="replace"))
    print_result(str(out or opened.path / "report.html"))
