"""``headstart export`` and ``headstart bench``: a run as a file for other programs, and how fast both are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import application, check_writable, guarded, write_json
from headstart.cli.options import Quiet, RunFolder, Verbose
from headstart.cli.terminal import TerminalListener, print_result
from headstart.settings.field import PATH, TEXT, Settings, option, whole

if TYPE_CHECKING:
    from headstart.export.speed import Speed

# headstart export --------------------------------------------------------------------------------------------------------------------

_EXAMPLES = """\b
Examples:
  headstart export runs/photos
  headstart export runs/photos --format int8 --max-drop 0.5% --out photos-int8.xml
  headstart export runs/photos --snippet python > predict.py
"""


@dataclass(frozen=True, kw_only=True)
class _Export(Settings):
    """What is exported, and how it is compared with the run."""

    format: str = option(
        "onnx", "int8 is OpenVINO's format with 8-bit integers, which is faster.", TEXT, metavar="onnx|openvino|int8|litert"
    )  # fmt: skip
    out: Path | None = option(None, "File to write.", PATH, metavar="FILE", shown="the run's name and .onnx, .xml or .tflite, here")
    max_drop: str = option("0.5%", "How much accuracy int8 may lose.", TEXT, metavar="SHARE")
    images: int | None = option(
        None, "How many of the run's images to compare on, at most.", whole(1), metavar="N", shown="300, for int8 1000"
    )  # fmt: skip
    data: Path | None = option(None, "Folder of the data, if the images have been moved since the fit.", PATH, metavar="DIR")
    snippet: str | None = option(
        None, "Print a program that uses the file; write nothing.", TEXT, metavar="python|javascript|cpp"
    )  # fmt: skip


@application.command(name="export", epilog=_EXAMPLES, short_help="One file that takes raw pixels, for other programs.")
@guarded
def export_command(
    run: RunFolder, *, how: _Export, quiet: Quiet = False, verbose: Verbose = False
) -> None:  # fmt: skip
    """Write the run as one file: images of any size in; probabilities, logits, features and the novelty score out.

    Resizing, cropping and normalisation are inside. Before it is written, the file is compared with the run on real images, the same arrays
    for both; the differences are in FILE.parity.json. int8 is written only if accuracy falls by no more than --max-drop on the run's
    test images; the layers that cause the largest error are left in float32 if need be, and each look at the test images is recorded in
    the run. LiteRT files take one preprocessed image of a fixed size, and are made by the program onnx2tf: pipx install onnx2tf.
    """
    from headstart.export import SUFFIXES, check_format, export, read_drop, snippet
    from headstart.run import load

    check_format(how.format)
    drop = read_drop(how.max_drop)
    opened = load(run)
    name = how.out or Path(f"{opened.path.resolve().name}{'-int8' if how.format == 'int8' else ''}{SUFFIXES[how.format]}")
    if how.snippet is not None:
        file = name if how.format == "litert" else name.with_suffix(".onnx")
        print_result(snippet(how.snippet, opened, file=file.name).rstrip("\n"))
        return
    check_writable(name, name.with_name(f"{name.name}.parity.json"))
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        done = export(opened, name, form=how.format, max_drop=drop, images=how.images, data=how.data, listener=listener)
    if not quiet:
        for parity in done.parities:
            print_result(parity.summary())
        if done.gates:
            print_result(done.gates[-1].summary())
    print_result(" ".join(str(file) for file in (*done.files, done.report)), style="bold green")


# headstart bench ---------------------------------------------------------------------------------------------------------------------

_BENCH_EXAMPLES = """\b
Examples:
  headstart bench runs/photos
  headstart bench runs/photos --exported photos.onnx --exported photos-int8.xml
"""


@application.command(name="bench", epilog=_BENCH_EXAMPLES, short_help="How fast a run is on this machine.")
@guarded
def bench_command(
    run: RunFolder,
    exported: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file that `headstart export` wrote, to compare; may be given again.")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="How many of the run's images to use, at most.")] = 100,
    rounds: Annotated[int, typer.Option(metavar="N", help="How many times to measure each, in turn; the median counts.")] = 3,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data, if the images have been moved since the fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures as JSON.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure images per second, and the time for one image, on the run's own images.

    All are measured in turn, round after round, because the speed of a machine drifts: compare lines of one call, not of different days.
    """
    from headstart.export.speed import measure
    from headstart.run import load

    opened = load(run)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        speeds = measure(opened, exported or (), images=images, rounds=rounds, data=data, listener=listener)
    if out is not None:
        write_json(out, [asdict(speed) for speed in speeds])
    for line in _speed_table(speeds):
        print_result(line)


def _speed_table(speeds: list[Speed]) -> list[str]:
    width = max(len(speed.what) for speed in speeds)
    head = f"{'':<{width}}  images/s  one image: median   99 of 100"
    return [
        head, *(f"{one.what:<{width}}  {one.rate:8.1f}  {one.median * 1e3:14.1f} ms  {one.slow * 1e3:7.1f} ms" for one in speeds),
    ]  # fmt: skip
