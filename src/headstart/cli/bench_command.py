"""``headstart bench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, guarded, write_json
from headstart.cli.terminal import TerminalListener, print_result

if TYPE_CHECKING:
    from headstart.export.speed import Speed

_EXAMPLES = """\b
Examples:
  headstart bench runs/photos
  headstart bench runs/photos --exported photos.onnx --exported photos-int8.xml
"""


@application.command(name="bench", epilog=_EXAMPLES, short_help="How fast a run is on this machine.")
@guarded
def bench_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    exported: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file that `headstart export` wrote, to compare; may be given again.")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="How many of the run's images to take, at most.")] = 100,
    rounds: Annotated[int, typer.Option(metavar="N", help="How often to measure each, in turn; the median counts.")] = 3,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data, where the images have been moved since the fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures as JSON.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure images a second, and the time for one image, on the run's own images.

    Each way is measured in turn, round after round, because machines drift: compare the lines with each other and not with another day's.
    """
    from headstart.export.speed import measure
    from headstart.run import load

    opened = load(run)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        speeds = measure(opened, exported or (), images=images, rounds=rounds, data=data, listener=listener)
    if out is not None:
        write_json(out, [asdict(speed) for speed in speeds])
    for line in _table(speeds):
        print_result(line)


def _table(speeds: list[Speed]) -> list[str]:
    width = max(len(speed.what) for speed in speeds)
    head = f"{'':<{width}}  images/s  one image: median   99 of 100"
    return [
        head, *(f"{one.what:<{width}}  {one.rate:8.1f}  {one.median * 1e3:14.1f} ms  {one.slow * 1e3:7.1f} ms" for one in speeds),
    ]  # fmt: skip
