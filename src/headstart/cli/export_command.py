"""``headstart export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded
from headstart.cli.terminal import TerminalListener, print_result

if TYPE_CHECKING:
    from headstart.run import Run

_EXAMPLES = """\b
Examples:
  headstart export runs/photos
  headstart export runs/photos --format int8 --max-drop 0.5% --out photos-int8.xml
  headstart export runs/photos --snippet python > predict.py
"""


@application.command(name="export", epilog=_EXAMPLES, short_help="One file that takes raw pixels, for other programs.")
@guarded
def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="onnx|openvino|int8|litert", help="int8 is OpenVINO's format with 8-bit integers, which is faster."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. [default: the run's name and .onnx, .xml or .tflite, here]"),
    ] = None,
    max_drop: Annotated[str, typer.Option(metavar="SHARE", help="How much accuracy int8 may lose.")] = "0.5%",
    images: Annotated[
        int | None, typer.Option(metavar="N", help="How many of the run's images to compare on, at most. [default: 300, for int8 1000]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data, if the images have been moved since the fit.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--snippet", metavar="python|javascript|cpp", help="Print a program that uses the file; write nothing."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the run as one file: images of any size in; probabilities, logits, features and the novelty score out.

    Resizing, cropping and normalisation are inside. Before it is written, the file is compared with the run on real images, the same arrays
    for both; the differences are in FILE.parity.json. int8 is written only if accuracy falls by no more than --max-drop on the run's
    test images; the layers that cause the largest error are left in float32 if need be, and each look at the test images is recorded in
    the run. LiteRT files take one preprocessed image of a fixed size, and are made by the program onnx2tf: pipx install onnx2tf.
    """
    from headstart.export import SUFFIXES, check_format, export, read_drop
    from headstart.run import load

    check_format(form)
    drop = read_drop(max_drop)
    opened = load(run)
    name = out or Path(f"{opened.path.resolve().name}{'-int8' if form == 'int8' else ''}{SUFFIXES[form]}")
    if language is not None:
        print_result(_program(opened, language, name, form))
        return
    check_writable(name, name.with_name(f"{name.name}.parity.json"))
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        done = export(opened, name, form=form, max_drop=drop, images=images, data=data, listener=listener)
    if not quiet:
        for parity in done.parities:
            print_result(parity.summary())
        if done.gates:
            print_result(done.gates[-1].summary())
    print_result(" ".join(str(file) for file in (*done.files, done.report)), style="bold green")


def _program(run: Run, language: str, file: Path, form: str) -> str:
    from headstart.errors import ParameterError
    from headstart.export import litert_snippet, snippet

    if form == "litert":
        if language != "python":
            raise ParameterError(f"--snippet {language}: the program for LiteRT is in python only.")
        program = litert_snippet(file=file.name, classes=run.classes, preprocessing=run.preprocessing, multilabel=run.multilabel)
        return program.rstrip("\n")
    unlike = None if run.trust is None else run.trust.unlike
    name = file.with_suffix(".onnx").name
    return snippet(language, file=name, classes=run.classes, threshold=None if unlike is None else unlike.threshold).rstrip("\n")
