"""``headstart fit``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import CacheFolder, Quiet, Verbose, application, guarded
from headstart.cli.terminal import TerminalListener, hanging, print_result

if TYPE_CHECKING:
    from headstart.fitting import FitResult, FitSettings, Shard

_HELP = """Learn a classifier from labelled images, test it on images it has not seen, and write a run folder.

DATA is a folder (DATA/CLASS/*, or DATA/{train,val,test}/CLASS/*), a list (CSV, TSV, JSONL or Parquet with the columns path and label, and
optionally split and group), an .npz file, or a named public set (torchvision:Flowers102, hf:NAME), which is downloaded.
"""
_EXAMPLES = """\b
Examples:
  headstart fit photos/
  headstart fit photos/ --test newer_photos/ --out runs/photos
  headstart fit xrays/ --group-from 'person(\\d+)_'
      a patient never stands on both sides of a split
  headstart fit list.csv --head logistic --folds 5
  headstart fit photos/ --shard 1/4 --cache shard1
      on each of four machines; then: headstart cache merge shard1 shard2 ...
"""


@application.command(name="fit", help=_HELP, epilog=_EXAMPLES, short_help="Learn a classifier from labelled images, and test it.")
@guarded
def fit_command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder, list file or named set of labelled images.")],
    test: Annotated[str | None, typer.Option(metavar="DIR", help="Test images: a folder or list with the same classes.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. [default: runs/NAME-OF-DATA]")] = None,
    backbone: Annotated[str, typer.Option(metavar="NAME", help="See `headstart backbones`.")] = "efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Backbone weights: .safetensors, or .pth (read safely).")] = None,
    head: Annotated[str, typer.Option(metavar="NAME", help="auto, logistic, ridge, kernel_ridge, neighbours or centroid.")] = "auto",
    class_weight: Annotated[str | None, typer.Option(metavar="balanced", help="Let every class count the same.")] = None,
    fit_image: Annotated[str | None, typer.Option(metavar="crop|squash", help="Cut the centre, or keep the whole image.")] = None,
    test_share: Annotated[float, typer.Option(help="Share held out where there is no test part.")] = 0.2,
    group_from: Annotated[str | None, typer.Option(metavar="REGEX", help="Group of an image, from its file name.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="KIND=NAME", help="Column of a list: path=, label=, split= or group=.")
    ] = None,
    folds: Annotated[int, typer.Option(metavar="K", help="Also cross-validate over the training part.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino, onnxruntime or torch.")] = "auto",
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only compute the I-th of N parts of the features.")] = None,
    cache: CacheFolder = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features and no converted network.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn a classifier from labelled images."""
    from headstart.fitting import FitSettings, Shard, fit

    settings = FitSettings(
        test=test, test_share=test_share, group_from=group_from, columns=_columns(column), folds=folds, backbone=backbone, weights=weights,
        head=head.replace("-", "_"), class_weight=class_weight, fit_image=fit_image, cache=None if no_cache else cache or "auto",
        engine=engine, seed=seed,
    )  # fmt: skip
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        if shard is not None:
            _fit_shard(data, Shard.parse(shard), settings, listener, quiet=quiet)
            return
        target = out or _free_run(data)
        command = "headstart " + shlex.join(sys.argv[1:])
        result = fit(data, out=target, settings=settings, listener=listener, command=command)
    show_result(result, quiet=quiet)


def _columns(given: list[str] | None) -> dict[str, str] | None:
    from headstart.errors import ParameterError

    if not given:
        return None
    columns = {}
    for text in given:
        kind, equals, name = text.partition("=")
        if kind not in ("path", "label", "split", "group") or not equals or not name:
            raise ParameterError(f"--column takes path=NAME, label=NAME, split=NAME or group=NAME; got {text!r}.")
        columns[kind] = name
    return columns


def _free_run(data: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: an earlier run is only replaced when its name is given."""
    there = Path(data).expanduser()
    whole = there.resolve()
    name = (whole.name if whole.is_dir() else whole.stem) if there.exists() else data.replace(":", "-").replace("/", "-")
    first = Path("runs") / (name or "run")
    count, target = 1, first
    while target.exists() or target.is_symlink():
        count += 1
        target = first.with_name(f"{first.name}-{count}")
    return target


def _fit_shard(data: str, shard: Shard, settings: FitSettings, listener: TerminalListener, *, quiet: bool) -> None:
    from headstart.fitting import fit_shard

    done = fit_shard(data, shard, settings=settings, listener=listener)
    for error in done.refused:
        listener.warn(f"{error} (left out)")
    if not quiet:
        print_result(f"When all {shard.count} are done: headstart cache merge OTHER... ; then headstart fit without --shard.")
    print_result(f"shard {shard.index}/{shard.count}: {done.images} images, {done.computed} computed now, kept in {done.store}")


def show_result(result: FitResult, *, quiet: bool) -> None:
    """Print the summary; the last line is the result, alike on a terminal and in a pipe."""
    if not quiet:
        for line in result.test.lines():
            print_result(line)
        print_result()
        for name, text, style in _facts(result):
            print_result(hanging(f"{name:<9} {text}", indent=10), style=style)
    print_result(result.test.summary("test"), style="bold green")


def _facts(result: FitResult) -> Iterator[tuple[str, str, str | None]]:
    """(name, text, style) of each line of the summary."""
    yield "head", result.head, None
    yield "why", result.choice.reason, None
    yield "tested on", result.held_out, None
    if result.cross_validation is not None:
        yield "folds", result.cross_validation.summary("cross-validated"), None
    if result.refused:
        count = len(result.refused)
        yield "left out", f"{count} unreadable {'image' if count == 1 else 'images'}, listed in the run's manifest.json", "yellow"
    grave = [finding for finding in result.findings if finding.severity == "error"]
    if grave:
        yield "beware", "the score cannot be believed before this is settled: " + " ".join(f.message for f in grave), "bold red"
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items() if stage != "total" and value >= 0.05)
    yield "time", f"{result.seconds['total']:.1f} s" + (f": {seconds}" if seconds else ""), None
    if result.run is not None:
        yield "run", f"{result.run} (open {result.run / 'report.html'})", None
        yield "next", f"headstart predict {shlex.quote(str(result.run))} IMAGE", None
