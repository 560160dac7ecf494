"""``headstart compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded, write_json
from headstart.cli.terminal import print_result

_EXAMPLES = """\b
Examples:
  headstart compare runs/photos runs/photos-2
  headstart compare runs/* --out comparison.json
"""


@application.command(name="compare", epilog=_EXAMPLES, short_help="Which of several runs is better, and whether that may be chance.")
@guarded
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders that `headstart fit` wrote, two at least.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs, image by image, on the images that all of them were tested on: which is better, and whether that may be chance."""
    from headstart.pipeline.comparison import compare_runs

    check_writable(out)
    comparison = compare_runs(runs)
    if out is not None:
        write_json(out, comparison.to_dict())
    for line in [] if quiet else comparison.lines()[:-1]:
        print_result(line)
    print_result(comparison.summary(), style="bold green")
