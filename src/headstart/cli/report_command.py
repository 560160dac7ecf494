"""``headstart report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded, writable
from headstart.cli.terminal import TerminalListener, print_result

_EXAMPLES = """\b
Examples:
  headstart report runs/photos
  headstart report runs/photos --out photos.html
"""


@application.command(name="report", epilog=_EXAMPLES, short_help="Write the report of a run anew.")
@guarded
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here, and leave the run as it is.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write report.html and MODEL_CARD.md of a run anew, with what has happened since: later uses of its test part.

    `headstart fit` writes both. Pictures of test and training images are shown where the images are still where they were.
    """
    check_writable(out)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        from headstart.pipeline import report_of
        from headstart.report import model_card, page
        from headstart.run import load, replace_pages

        listener.stage("Writing the report")
        opened = load(run, without_pages=True)
        report = report_of(opened)
        if not report.examples:
            listener.warn("None of the test images is where the run says, so the report shows no pictures.")
        html = page(report)
        if out is None:
            replace_pages(opened.path, {"report.html": html, "MODEL_CARD.md": model_card(report)})
        else:
            with writable(out):
                out.write_bytes(html.encode("utf-8", errors="replace"))
    print_result(str(out or opened.path / "report.html"))
