"""``headstart fit`` and ``headstart lr-find``: the commands that train."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import INTERRUPTED, application, check_writable, guarded, writable
from headstart.cli.options import Data, OptionsOf, Quiet, Typed, Verbose, fit_settings, split_typed, words_typed
from headstart.cli.terminal import TerminalListener, hanging, print_result
from headstart.errors import ParameterError
from headstart.settings import FineTuning, FitSettings
from headstart.settings.field import PATH, TEXT, Settings, check_same, number, option, options, plain, whole

if TYPE_CHECKING:
    from headstart.pipeline import FitResult
    from headstart.training.learning_rates import LearningRates

# headstart fit -----------------------------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True, kw_only=True)
class _Instead(Settings):
    """What `headstart fit` does instead of a whole fit from the beginning."""

    show_augment: Path | None = option(
        None, "Write a picture of augmented images, as the network will see them, and stop.", PATH, metavar="FILE.png", panel="Training"
    )  # fmt: skip
    resume: Path | None = option(None, "Resume a training that was interrupted.", PATH, metavar="RUN", panel="Training")
    shard: str | None = option(None, "Compute the I-th of N parts of the features, and stop.", TEXT, metavar="I/N")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [of.flag for name, of in options(type(self)).items() if getattr(self, name) is not None]
        if len(given) > 1:
            raise ParameterError(f"{' and '.join(given)} are mutually exclusive.")


@application.command(name="fit", help=_HELP, epilog=_EXAMPLES, short_help="Learn a classifier from labelled images, and test it.")
@guarded
def fit_command(
    data: Data,
    *,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. [default: runs/NAME-OF-DATA]")] = None,
    typed: Annotated[Typed, OptionsOf((FitSettings, FineTuning), default={"strategy": "probe"})],
    instead: _Instead,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn a classifier from labelled images."""
    with TerminalListener(quiet=quiet, verbose=verbose, mute=not leads()) as listener:
        if instead.show_augment is not None:
            _show_augmentation(data, instead.show_augment, fit_settings(typed, strategy="partial"))
        elif instead.shard is not None:
            _fit_shard(data, instead.shard, fit_settings(typed), listener, quiet=quiet)
        elif instead.resume is not None:
            result = _resume(data, out, typed, listener, run=_run_of(instead.resume))
        else:
            result = run_fit(data, out or free_run(data), fit_settings(typed), listener)
    if instead.show_augment is None and instead.shard is None:  # below the progress, which is gone now
        show_result(result, quiet=quiet)


def leads() -> bool:
    """Whether this process is the one that reports, where torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def run_fit(data: str, out: Path, settings: FitSettings, listener: TerminalListener, *, resume: bool = False) -> FitResult:
    """Call `headstart.fit` with the command that was typed; of several processes one reports an interruption."""
    from headstart.pipeline import fit

    command = "headstart " + shlex.join(sys.argv[1:])
    try:
        return fit(data, out=out, settings=settings, listener=listener, command=command, resume=resume)
    except KeyboardInterrupt:
        if leads():
            raise
        raise typer.Exit(INTERRUPTED) from None


def _resume(data: str, out: Path | None, typed: Typed, listener: TerminalListener, *, run: Path) -> FitResult:
    """Resume a training with the settings it was begun with; what was typed must not contradict them."""
    from headstart.pipeline import settings_to_resume

    if out is not None and _run_of(out) != run:
        raise ParameterError(f"--resume {run} resumes that run; leave out --out {out}.")
    settings, begun_on = settings_to_resume(run, cache=typed.get("cache", "auto"))
    own, training = split_typed(typed)
    now = {name: plain(value) for name, value in own.items() if options(FitSettings)[name].recorded}
    check_same(settings.to_dict(), {**now, "fine_tuning": {name: plain(value) for name, value in training.items()}}, run=run)
    listener.say(f"Resuming {run}, which was begun on {begun_on}.")
    return run_fit(data, run, settings, listener, resume=True)


def _run_of(path: Path) -> Path:
    """The run that is meant, where somebody names the folder of its training instead, or a path without a name."""
    path = path.expanduser()
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(path.name.removesuffix(".training"))


def _show_augmentation(data: str, path: Path, settings: FitSettings) -> None:
    from headstart.pipeline import augmentation_sheet

    plan = settings.fine_tuning or FineTuning()
    if path.suffix.lower() != ".png":
        raise ParameterError(f"--show-augment takes the name of a .png file, got {path}.")
    check_writable(path)
    with writable(path):
        augmentation_sheet(data, settings, augment=plan.augment, size=plan.image_size).save(path)
    print_result(f"{path}: what the network will see with --augment {plan.augment}. Nothing was trained.")


def _fit_shard(data: str, shard: str, settings: FitSettings, listener: TerminalListener, *, quiet: bool) -> None:
    from headstart.pipeline import Shard, fit_shard

    part = Shard.parse(shard)
    done = fit_shard(data, part, settings=settings, listener=listener)
    for error in done.refused:
        listener.warn(f"{error} (left out)")
    if not quiet:
        print_result(f"When all {part.count} are done: headstart cache merge OTHER... ; then headstart fit without --shard.")
    print_result(f"shard {part.index}/{part.count}: {done.images} images, {done.computed} computed now, stored in {done.store}")


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


def show_result(result: FitResult, *, quiet: bool) -> None:
    """Print the summary, in the process that leads; the last line is the result, the same on a terminal and in a pipe."""
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
        yield "beware", "do not trust the score until this is resolved: " + " ".join(f.message for f in grave), "bold red"
    tested = result.judged.reliability_test
    if tested is not None and tested.coverage is not None and tested.size is not None:
        yield "sets", f"prediction sets: mean size {tested.size:.2f}, coverage {tested.coverage:.1%}", None
    if result.judged.learning_curve is not None:
        yield "more", result.judged.learning_curve.sentence, None
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items() if stage != "total" and value >= 0.05)
    yield "time", f"{result.seconds['total']:.1f} s" + (f": {seconds}" if seconds else ""), None
    if result.run is not None:
        yield "run", f"{result.run} (open {result.run / 'report.html'})", None
        yield "next", f"headstart predict {shlex.quote(str(result.run))} IMAGE", None


# headstart lr-find -------------------------------------------------------------------------------------------------------------------

_LR_HELP = """Find a learning rate: train for a moment with a rate that rises from step to step, and see where the loss falls.

DATA and the options are those of `headstart fit`. Test images are not used, no run is written, and the trained weights are discarded.
"""
_LR_EXAMPLES = """\b
Examples:
  headstart lr-find photos/
  headstart lr-find photos/ --strategy full --augment standard
  headstart lr-find photos/ --out curve.png
"""
_SEARCHED = OptionsOf(
    (FitSettings, FineTuning),
    without=("head", "plan", "coverage", "coverage_by_class", "folds", "lr", "epochs", "steps", "early_stop", "average", "logger"),
    help={"seed": "The same seed gives the same curve.", "test": "Test images, as in `headstart fit`; they are not used."},
    default={"strategy": "partial"},
)


@dataclass(frozen=True, kw_only=True)
class _Search(Settings):
    """The search itself; `find_learning_rate` checks the rates."""

    out: Path | None = option(None, "Draw the curve into this file.", PATH, metavar="FILE.png")
    low: float = option(1e-6, "Learning rate of the first step.", number())
    high: float = option(1.0, "Learning rate of the last step, unless the loss diverges before.", number())
    steps: int = option(100, "Steps of the search.", whole(1), metavar="N")


@application.command(name="lr-find", help=_LR_HELP, epilog=_LR_EXAMPLES, short_help="Find a learning rate for a training.")
@guarded
def lr_find_command(
    context: typer.Context,
    data: Data,
    *,
    search: _Search,
    typed: Annotated[Typed, _SEARCHED],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find a learning rate."""
    from headstart.pipeline import find_learning_rate
    from headstart.training.learning_rates import lr_text

    settings = fit_settings(typed, strategy="partial")
    if settings.fine_tuning is None:
        raise ParameterError(
            "With --strategy probe the head is fitted in closed form, and there is no learning rate to find. "
            "Give --strategy partial or full; or --head-layers, to train a head of dense layers."
        )
    if search.out is not None and search.out.suffix.lower() != ".png":
        raise ParameterError(f"--out takes the name of a .png file, got {search.out}.")
    check_writable(search.out)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        found = find_learning_rate(data, settings, low=search.low, high=search.high, steps=search.steps, listener=listener)
    if search.out is not None:
        from headstart.report import draw_png
        from headstart.report.training import lr_chart
        from headstart.sections import Charts

        with writable(search.out):
            draw_png(Charts((lr_chart(found),)), search.out)
    if not quiet:
        _show_search(found, search.out)
    options_of_fit = words_typed(context, without=("data", "strategy", "low", "high", "steps", "out", "quiet", "verbose"))
    command = ["headstart", "fit", data, "--strategy", settings.fine_tuning.strategy, *options_of_fit, "--lr", lr_text(found.suggested)]
    print_result(shlex.join(command), style="bold green")


def _show_search(found: LearningRates, out: Path | None) -> None:
    """Print the curve as a small table, and what follows from it."""
    from headstart.training.learning_rates import lr_text

    print_result(f"{'lr':>8}  {'loss':>8}", style="bold")
    for rate, smoothed in found.rows():
        print_result(f"{lr_text(rate):>8}  {smoothed:>8.4f}")
    print_result()
    end = "the loss diverged there" if found.diverged else "the loss did not diverge"
    print_result(f"{'search':<9} {len(found.lrs)} steps, up to {lr_text(found.lrs[-1])}; {end}")
    print_result(hanging(f"{'why':<9} {found.reason}", indent=10))
    if out is not None:
        print_result(f"{'curve':<9} {out}")
