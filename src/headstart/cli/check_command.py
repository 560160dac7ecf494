"""``headstart check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import Quiet, Verbose, application, guarded
from headstart.cli.terminal import TerminalListener, print_result


@application.command(name="check", epilog="Examples:\n\n  headstart check photos/\n\n  headstart check list.csv --out findings.json")
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

    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        listener.stage("Reading the data")
        dataset = read_dataset(data, test=test, group_from=group_from)
        listener.stage(f"Checking {len(dataset)} images")
        audit = check(dataset, progress=listener.progress)
    if out is not None:
        out.write_text(json.dumps(audit.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for line in audit.lines():
        print_result(line)
