"""``headstart check``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli import data_options
from headstart.cli.application import CacheFolder, Quiet, Verbose, application, check_writable, guarded, write_json
from headstart.cli.terminal import TerminalListener, print_result

_EXAMPLES = """\b
Examples:
  headstart check photos/
  headstart check photos/ --deep --fix plan.json
      then: headstart fit photos/ --plan plan.json
  headstart check list.csv --out findings.json
"""


@application.command(name="check", epilog=_EXAMPLES, short_help="What is wrong with the data, before any training.")
@guarded
def check_command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`.")],
    test: Annotated[str | None, typer.Option(metavar="DIR", help="Test images, as for `headstart fit`.")] = None,
    group_from: data_options.GroupFrom = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also near copies, wrong labels, outliers, and what leaks do to the score.")] = False,
    fix: Annotated[Path | None, typer.Option(metavar="FILE", help="With --deep: write a plan for `headstart fit --plan`.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all findings as JSON.")] = None,
    backbone: data_options.Backbone = "efficientnet_lite0",
    weights: data_options.Weights = None,
    engine: data_options.Engine = "auto",
    cache: CacheFolder = None,
    no_cache: data_options.NoCache = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what is wrong with the data, before any training. Nothing is changed.

    Unreadable files, copies, leaks between the parts, groups in the file names, shortcuts by which a class can be told without a look at
    the picture. With --deep, what only features show: near copies, labels that are probably wrong, outliers.
    """
    from headstart.audit import check
    from headstart.data import read_dataset
    from headstart.errors import ParameterError

    if fix is not None and not deep:
        raise ParameterError("--fix needs what --deep finds. Type: headstart check DATA --deep --fix FILE")
    check_writable(out, fix)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        if deep:
            from headstart.pipeline import FitSettings, deep_check

            kept = None if no_cache else cache or "auto"
            settings = FitSettings(test=test, group_from=group_from, backbone=backbone, weights=weights, engine=engine, cache=kept)
            found = deep_check(data, settings=settings, listener=listener)
            audit = found.audit
            if fix is not None:
                found.plan.write(fix)
        else:
            listener.stage("Reading the data")
            dataset = read_dataset(data, test=test, group_from=group_from)
            listener.stage(f"Checking {len(dataset)} images")
            audit = check(dataset, progress=listener.progress)
    if out is not None:
        write_json(out, audit.to_dict())
    for line in audit.lines()[-1:] if quiet else audit.lines():
        print_result(line)
    if fix is not None and not quiet:
        given = [data, *(() if test is None else ("--test", test)), *(() if group_from is None else ("--group-from", group_from))]
        print_result(f"{fix}: the plan. Read it, change it, then: headstart fit {shlex.join([*given, '--plan', str(fix)])}")
