"""``headstart check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, check_writable, guarded, write_json
from headstart.cli.terminal import TerminalListener, print_result

_EXAMPLES = """\b
Examples:
  headstart check photos/
  headstart check list.csv --out findings.json
"""


@application.command(name="check", epilog=_EXAMPLES, short_help="What is wrong with the data, before any training.")
@guarded
def check_command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`.")],
    test: Annotated[str | None, typer.Option(metavar="DIR", help="Test images, as for `headstart fit`.")] = None,
    group_from: Annotated[str | None, typer.Option(metavar="REGEX", help="Group of an image, from its file name.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all findings as JSON.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what is wrong with the data, before any training: unreadable files, duplicates, leaks, shortcuts. Nothing is changed."""
    from headstart.audit import check
    from headstart.datasets import read_dataset

    check_writable(out)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        listener.stage("Reading the data")
        dataset = read_dataset(data, test=test, group_from=group_from)
        listener.stage(f"Checking {len(dataset)} images")
        audit = check(dataset, progress=listener.progress)
    if out is not None:
        write_json(out, audit.to_dict())
    for line in audit.lines()[-1:] if quiet else audit.lines():
        print_result(line)
