"""``headstart fit``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli import data_options, training_options
from headstart.cli.application import INTERRUPTED, CacheFolder, Quiet, Verbose, application, check_writable, guarded, writable
from headstart.cli.terminal import TerminalListener, hanging, print_result

if TYPE_CHECKING:
    from headstart.pipeline import FitResult, FitSettings, Shard

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
  headstart fit photos/ --strategy partial
      trains the last stages of the backbone too; needs headstart[torch]
  headstart fit photos/ --shard 1/4 --cache shard1
      on each of four machines; then: headstart cache merge shard1 shard2 ...
"""


@application.command(name="fit", help=_HELP, epilog=_EXAMPLES, short_help="Learn a classifier from labelled images, and test it.")
@guarded
def fit_command(
    data: data_options.Data,
    test: Annotated[str | None, typer.Option(metavar="DIR", help="Test images: a folder or list with the same classes.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. [default: runs/NAME-OF-DATA]")] = None,
    backbone: data_options.Backbone = "efficientnet_lite0",
    weights: data_options.Weights = None,
    head: Annotated[str, typer.Option(metavar="NAME", help="auto, logistic, ridge, kernel_ridge, neighbours or centroid.")] = "auto",
    class_weight: data_options.ClassWeight = None,
    fit_image: data_options.FitImage = None,
    test_share: data_options.TestShare = 0.2,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Follow the plan that `headstart check --fix` wrote.")] = None,
    coverage: Annotated[float, typer.Option(help="How often the prediction sets are to hold the right class.")] = 0.95,
    by_class: Annotated[bool, typer.Option("--by-class", help="Promise that coverage within each class.")] = False,
    group_from: data_options.GroupFrom = None,
    column: data_options.Column = None,
    folds: Annotated[int, typer.Option(metavar="K", help="Also cross-validate over the training part.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    engine: data_options.Engine = "auto",
    strategy: training_options.Strategy = "probe",
    unfreeze: training_options.Unfreeze = None,
    lr: training_options.LearningRate = None,
    layer_decay: training_options.LayerDecay = None,
    epochs: training_options.Epochs = None,
    steps: training_options.Steps = None,
    batch_size: training_options.BatchSize = None,
    augment: training_options.Augment = None,
    views: training_options.Views = None,
    show_augment: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write a sheet of what the network will see, and stop.", rich_help_panel="Training"),
    ] = None,
    optimizer: training_options.Optimizer = None,
    loss: training_options.LossName = None,
    label_smoothing: training_options.LabelSmoothing = None,
    head_layers: training_options.HeadLayers = None,
    dropout: training_options.Dropout = None,
    pooling: training_options.Pooling = None,
    image_size: training_options.ImageSize = None,
    precision: training_options.Precision = None,
    retain: training_options.Retain = None,
    early_stop: training_options.EarlyStop = None,
    average: training_options.Average = None,
    device: training_options.Device = None,
    logger: training_options.Logger = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a training that was interrupted.", rich_help_panel="Training")
    ] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only compute the I-th of N parts of the features.")] = None,
    cache: CacheFolder = None,
    no_cache: data_options.NoCache = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn a classifier from labelled images."""
    from headstart.pipeline import FitSettings, Shard

    _check_one_kind_of_work(shard=shard, show_augment=show_augment, resume=resume)
    if strategy == "probe" and show_augment is not None:
        strategy = "partial"
    elif strategy == "probe" and resume is not None:
        strategy = _strategy_of(resume)
    training = training_options.fine_tuning(
        strategy, dict(  # noqa: C408
            unfreeze=unfreeze, lr=lr, layer_decay=layer_decay, epochs=epochs, steps=steps, batch_size=batch_size, augment=augment,
            views=views, optimizer=optimizer, loss=loss, label_smoothing=label_smoothing, head_layers=head_layers, dropout=dropout,
            pooling=pooling, image_size=image_size, precision=precision, retain=retain, early_stop=early_stop, average=average,
            device=device, logger=logger,
        ),
    )  # fmt: skip
    kept = None if no_cache else cache or "auto"
    settings = FitSettings(
        test=test, test_share=test_share, group_from=group_from, columns=columns_of(column), folds=folds, backbone=backbone,
        weights=weights, head=head.replace("-", "_"), class_weight=class_weight, fit_image=fit_image, cache=kept, engine=engine, seed=seed,
        fine_tuning=training, plan=plan, coverage=coverage, coverage_by_class=by_class,
    )  # fmt: skip
    with TerminalListener(quiet=quiet, verbose=verbose, mute=not leads()) as listener:
        if show_augment is not None:
            _show_augmentation(data, show_augment, augment or "light", settings, image_size)
        elif shard is not None:
            _fit_shard(data, Shard.parse(shard), settings, listener, quiet=quiet)
        else:
            result = _fit(data, out, settings, listener, resume=resume)
    if show_augment is None and shard is None:  # below the progress, which is gone now
        show_result(result, quiet=quiet)


def _check_one_kind_of_work(**given: Any) -> None:
    from headstart.errors import ParameterError

    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ParameterError(f"{' and '.join(names)} cannot be combined: each is a work of its own.")


def leads() -> bool:
    """Whether this process is the one that reports, where torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def _fit(data: str, out: Path | None, settings: FitSettings, listener: TerminalListener, *, resume: Path | None) -> FitResult:
    from headstart.errors import ParameterError
    from headstart.pipeline import fit, settings_to_resume

    if resume is not None:
        resume = _run_of(resume)
        if out is not None and _run_of(out) != resume:
            raise ParameterError(f"--resume {resume} goes on with that run; leave out --out {out}.")
        begun, of = settings_to_resume(resume, cache=settings.cache)
        settings = _same_but_for(begun, settings, run=resume)
        listener.say(f"Going on with {resume}, which was begun on {of}.")
    target = resume or out or free_run(data)
    command = "headstart " + shlex.join(sys.argv[1:])
    try:
        return fit(data, out=target, settings=settings, listener=listener, command=command, resume=resume is not None)
    except KeyboardInterrupt:
        if leads():
            raise
        raise typer.Exit(INTERRUPTED) from None  # one process says it for all


def _run_of(path: Path) -> Path:
    """The run that is meant, where somebody names the folder of its training instead, or a path without a name."""
    path = path.expanduser()
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(path.name.removesuffix(".training"))


def _strategy_of(resumed: Path) -> str:
    from headstart.pipeline import settings_to_resume

    plan = settings_to_resume(_run_of(resumed))[0].fine_tuning
    return "probe" if plan is None else plan.strategy


def _same_but_for(begun: FitSettings, given: FitSettings, *, run: Path) -> FitSettings:
    """The settings with which a training was begun; what was typed now must not contradict them."""
    from headstart.pipeline import FitSettings
    from headstart.settings import FineTuning

    before, now, default = begun.to_dict(), given.to_dict(), FitSettings().to_dict()
    plan_before, plan_now = before.pop("fine_tuning"), now.pop("fine_tuning")
    _check_not_contrary(now, default, before, run=run)
    if plan_now is not None:
        # A strategy has been typed, if it is the usual one or not.
        _check_not_contrary(plan_now, FineTuning().to_dict() | {"strategy": None}, plan_before, run=run)
    return begun


def _check_not_contrary(now: Mapping[str, Any], default: Mapping[str, Any], before: Mapping[str, Any], *, run: Path) -> None:
    from headstart.errors import ParameterError

    for name, value in now.items():
        if value not in (default[name], before[name]):
            raise ParameterError(
                f"The training of {run} was begun with {name} {before[name]!r} and cannot go on with {value!r}. Leave it out: all settings "
                "are taken over."
            )


def _show_augmentation(data: str, path: Path, augment: str, settings: FitSettings, size: int | None) -> None:
    from headstart.errors import ParameterError
    from headstart.pipeline import augmentation_sheet

    if path.suffix.lower() != ".png":
        raise ParameterError(f"--show-augment takes the name of a .png file, got {path}.")
    check_writable(path)
    with writable(path):
        augmentation_sheet(data, settings, augment=augment, size=size).save(path)
    print_result(f"{path}: what the network will see with --augment {augment}. Nothing was trained.")


def columns_of(given: list[str] | None) -> dict[str, str] | None:
    """What ``--column`` says, as `FitSettings` takes it."""
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


def free_run(data: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: an earlier run is only replaced when its name is given."""
    there = Path(data).expanduser()
    whole = there.resolve()
    name = (whole.name if whole.is_dir() else whole.stem) if there.exists() else data.replace(":", "-").replace("/", "-")
    first = Path("runs") / (name or "run")
    count, target = 1, first
    while target.exists() or target.is_symlink() or target.with_name(target.name + ".training").exists():
        count += 1
        target = first.with_name(f"{first.name}-{count}")
    return target


def _fit_shard(data: str, shard: Shard, settings: FitSettings, listener: TerminalListener, *, quiet: bool) -> None:
    from headstart.pipeline import fit_shard

    done = fit_shard(data, shard, settings=settings, listener=listener)
    for error in done.refused:
        listener.warn(f"{error} (left out)")
    if not quiet:
        print_result(f"When all {shard.count} are done: headstart cache merge OTHER... ; then headstart fit without --shard.")
    print_result(f"shard {shard.index}/{shard.count}: {done.images} images, {done.computed} computed now, kept in {done.store}")


def show_result(result: FitResult, *, quiet: bool) -> None:
    """Print the summary, in the process that leads; the last line is the result, alike on a terminal and in a pipe."""
    if not leads():
        return
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
    if result.probe is not None:
        yield "before", result.probe.summary().removeprefix("before: "), None
    yield "tested on", result.held_out, None
    if result.cross_validation is not None:
        yield "folds", result.cross_validation.summary("cross-validated"), None
    if result.refused:
        count = len(result.refused)
        yield "left out", f"{count} unreadable {'image' if count == 1 else 'images'}, listed in the run's manifest.json", "yellow"
    grave = [finding for finding in result.findings if finding.severity == "error"]
    if grave:
        yield "beware", "the score cannot be believed before this is settled: " + " ".join(f.message for f in grave), "bold red"
    trusted = result.trust_test
    if trusted.coverage is not None and trusted.size is not None:
        yield "sets", f"of {trusted.size:.2f} classes on average hold the right one in {trusted.coverage:.1%} of cases", None
    if result.learning_curve is not None:
        yield "more", result.learning_curve.sentence, None
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items() if stage != "total" and value >= 0.05)
    yield "time", f"{result.seconds['total']:.1f} s" + (f": {seconds}" if seconds else ""), None
    if result.run is not None:
        yield "run", f"{result.run} (open {result.run / 'report.html'})", None
        yield "next", f"headstart predict {shlex.quote(str(result.run))} IMAGE", None
