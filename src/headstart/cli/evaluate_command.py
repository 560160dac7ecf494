"""``headstart evaluate``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded, writable, write_json
from headstart.cli.terminal import TerminalListener, print_result

if TYPE_CHECKING:
    from headstart.evaluate import Evaluation
    from headstart.reliability import TrustTest
    from headstart.run import Predictions, Run

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
    """Test a run on labelled images: the saved model itself, from pixels to probabilities.

    Also how well its prediction sets, its confidence and its sense of what is unlike the training images hold on these images; with --out
    the whole curves. Images that the run has learned from are counted and named; each look at its test part is written down in the run.
    """
    from headstart.data import read_dataset
    from headstart.errors import DataError, ParameterError, RunError
    from headstart.run import Use, is_run, load, record_use

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
        trained, tested = opened.seen(predictions.digests)
        if trained:
            listener.warn(
                f"The run has learned from {trained} of these {evaluation.images} images: the score is too high. Test on other images."
            )
        if tested:
            use = Use(data=data, images=evaluation.images, tested=tested, trained=trained, accuracy=evaluation.accuracy)
            kept = record_use(opened.path, use)
            listener.say(
                f"{tested} of these images are the run's own test images. "
                + (
                    "This look at them was written down in the run."
                    if kept
                    else "This could not be written down: the run cannot be written to."
                )
            )
    trusted = _trusted(opened, evaluation, predictions)
    if out is not None:
        write_json(out, {**evaluation.to_dict(), "seen": {"trained": trained, "tested": tested}, **_curves(evaluation, trusted)})
    if picture is not None:
        from headstart.report import confusion_matrix_png

        with writable(picture):
            confusion_matrix_png(evaluation, picture)
    if not quiet:
        for line in evaluation.lines():
            print_result(line)
        for sentence in () if trusted is None else trusted.sentences():
            print_result(f"  {sentence}")
    print_result(evaluation.summary("test"), style="bold green")


def _trusted(run: Run, evaluation: Evaluation, predictions: Predictions) -> TrustTest | None:
    """How well what the run knows about trust holds on these images; None for runs of an earlier version."""
    from headstart.reliability import TrustTest

    if run.trust is None or predictions.judgement is None:
        return None
    return TrustTest.of(run.trust, evaluation.outcome.probabilities, evaluation.outcome.targets, predictions.judgement.unlike)


def _curves(evaluation: Evaluation, trusted: TrustTest | None) -> dict[str, Any]:
    """What --out holds beside the scores."""
    from headstart.reliability import Abstention, confidence

    curve = Abstention.fit(*confidence(evaluation.outcome.probabilities, evaluation.outcome.targets))
    return {
        "trust": None if trusted is None else trusted.to_dict(),
        "accuracy_coverage": {
            "threshold": curve.thresholds.tolist(), "coverage": curve.coverage.tolist(), "accuracy": curve.accuracy.tolist(),
        },
    }  # fmt: skip
