"""``headstart fit`` and ``headstart lr-find``: the commands that train."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import INTERRUPTED, command
from headstart.cli.options import Data, OptionsOf, Typed, fit_settings, split_typed, words_typed
from headstart.cli.terminal import Terminal
from headstart.errors import ParameterError, nearest
from headstart.files import check_writable, marked_png, writable
from headstart.settings import FineTuning, FitSettings
from headstart.settings.batch import Shard
from headstart.settings.field import PATH, TEXT, Limit, Settings, check_same, instance_of, list_of, number, option, options, plain, whole
from headstart.text import plural, unread

if TYPE_CHECKING:
    from headstart.pipeline import FitResult
    from headstart.training.learning_rates import LearningRates

_FOLDS_SHOWN = 10
_PNG = Limit("the name of a .png file", lambda value: Path(value).suffix.lower() == ".png")


@dataclass(frozen=True, kw_only=True)
class _Instead(Settings):
    """What `headstart fit` does instead of a whole fit from the beginning."""

    show_augment: Path | None = option(
        None, "Write a picture of augmented images, as the network will see them, and stop.", _PNG, metavar="FILE.png", panel="Training"
    )  # fmt: skip
    resume: Path | None = option(None, "Resume a training that was interrupted.", PATH, metavar="RUN", panel="Training")
    shard: Shard | None = option(
        None, "Compute the I-th of N parts of the features, and stop.", instance_of(Shard, "a Shard"), metavar="I/N", parse=Shard.parse
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [of.flag for name, of in options(type(self)).items() if getattr(self, name) is not None]
        if len(given) > 1:
            raise ParameterError(f"{' and '.join(given)} are mutually exclusive.")


def _handcrafted(typed: str) -> tuple[str, ...]:
    from headstart.backbones.handcrafted import NAMES, find_handcrafted

    names = [name.strip() for name in typed.split(",")]
    found = [find_handcrafted(name) for name in names]
    for name, record in zip(names, found, strict=True):
        if record is None:
            raise ParameterError(f"--features takes {', '.join(NAMES)}, or several with commas; got {name!r}.{nearest(name, NAMES)}")
    return tuple(name for name in NAMES if any(record is not None and record.name == name for record in found))


@dataclass(frozen=True, kw_only=True)
class _Features(Settings):
    """Handcrafted features, which are named as further parts of the backbone."""

    features: tuple[str, ...] = option(
        (), "Handcrafted features, alone or beside those of --backbone: hog, sift, color.", list_of(TEXT), metavar="NAME,...",
        parse=_handcrafted,
    )  # fmt: skip


def _as_backbone(typed: Typed) -> Typed:
    """What was typed, with handcrafted features as the backbone, or as parts of the one that was named."""
    if "features" not in typed:
        return typed
    named = [typed["backbone"]] if "backbone" in typed else []
    rest = {name: value for name, value in typed.items() if name != "features"}
    return {**rest, "backbone": "+".join([*named, *typed["features"]])}


@command("fit", "Learn from labelled images, and test the model.")
def fit_command(
    terminal: Terminal,
    data: Data,
    *,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. [default: runs/NAME-OF-DATA]")] = None,
    typed: Annotated[Typed, OptionsOf((FitSettings, _Features, FineTuning), default={"strategy": "probe"})],
    instead: _Instead,
) -> None:
    r"""Learn from labelled images, test the model on images it has not seen, and write a run folder.

    DATA is a folder (DATA/CLASS/*, or DATA/{train,val,test}/CLASS/*), a list (CSV, TSV, JSONL or Parquet with the columns path and label,
    and optionally split and group), an .npz file, or a named public set (torchvision:Flowers102, hf:NAME), which is downloaded.
    What is learned follows from the data, and is said in one line: classes; where there are masks, the class of each pixel; where there are
    boxes, to find things; from good images alone (--task anomaly), what is not as it should be.

    Examples:
      headstart fit photos/
      headstart fit photos/ --test newer_photos/ --out runs/photos
      headstart fit xrays/ --group-from 'person(\d+)_'
          a patient never stands on both sides of a split
      headstart fit list.csv --head logistic --folds 5
      headstart fit photos/ --budget 10m
          chooses the backbone, its image size and views within ten minutes
      headstart fit photos/ --adapt-to sketches/
          adapts the model to unlabelled images of another world
      headstart fit photos/ --strategy partial
          trains the last stages of the backbone too; needs headstart[torch]
      headstart fit photos/ --features hog,sift,color
          the classical system, with no backbone, and how far a pre-trained one is ahead
      headstart fit photos/ --shard 1/4 --cache shard1
          on each of four machines; then: headstart cache merge shard1 shard2 ...
    """
    terminal.lead()
    typed = _as_backbone(typed)
    if instead.show_augment is not None:
        _show_augmentation(data, instead.show_augment, fit_settings(typed, strategy="partial"), terminal)
    elif instead.shard is not None:
        _fit_shard(data, instead.shard, fit_settings(typed), terminal)
    elif instead.resume is not None:
        _resume(data, out, typed, terminal, run=_run_of(instead.resume))
    else:
        show_result(run_fit(data, out, fit_settings(typed), terminal), terminal)


def run_fit(data: str, out: Path | None, settings: FitSettings, terminal: Terminal, *, name: str = "", resume: bool = False) -> FitResult:
    """Call `headstart.fit` with the command that was typed; of several processes one reports an interruption.

    Where no `out` is given, the run is the first of runs/NAME, runs/NAME-2 and so on that is free: an earlier one is only replaced when its
    name is given. By default that is the name of the data.
    """
    from headstart.pipeline import fit, fit_numbered

    command = "headstart " + shlex.join(sys.argv[1:])
    try:
        if out is None:
            return fit_numbered(data, Path("runs") / (name or _name_of(data)), settings=settings, listener=terminal, command=command)
        return fit(data, out=out, settings=settings, listener=terminal, command=command, resume=resume)
    except KeyboardInterrupt:
        if terminal.leads:
            raise
        raise typer.Exit(INTERRUPTED) from None


def _resume(data: str, out: Path | None, typed: Typed, terminal: Terminal, *, run: Path) -> None:
    """Resume a training with the settings it was begun with; what was typed must not contradict them."""
    from headstart.pipeline import settings_to_resume

    if out is not None and _run_of(out) != run:
        raise ParameterError(f"--resume {run} resumes that run; leave out --out {out}.")
    settings, begun_on = settings_to_resume(run, cache=typed.get("cache", "auto"))
    own, training = split_typed(typed, FineTuning)
    now = {name: plain(value) for name, value in own.items() if options(FitSettings)[name].recorded}
    check_same(settings.to_dict(), {**now, "fine_tuning": {name: plain(value) for name, value in training.items()}}, run=run)
    terminal.say(f"Resuming {run}, which was begun on {begun_on}.")
    show_result(run_fit(data, run, settings, terminal, resume=True), terminal)


def _run_of(path: Path) -> Path:
    """The run that is meant, where somebody names the folder of its training instead, or a path without a name."""
    path = path.expanduser()
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(path.name.removesuffix(".training"))


def _show_augmentation(data: str, path: Path, settings: FitSettings, terminal: Terminal) -> None:
    from headstart.pipeline import augmentation_sheet

    plan = settings.fine_tuning or FineTuning()
    check_writable(path)
    with writable(path):
        picture = io.BytesIO()
        augmentation_sheet(data, settings, augment=plan.augment, size=plan.image_size).save(picture, format="PNG")
        path.write_bytes(marked_png(picture.getvalue()))
    terminal.result(f"{path}: what the network will see with --augment {plan.augment}. Nothing was trained.")


def _fit_shard(data: str, part: Shard, settings: FitSettings, terminal: Terminal) -> None:
    from headstart.pipeline import fit_shard

    done = fit_shard(data, part, settings=settings, listener=terminal)
    if done.refused:
        terminal.warn(unread(done.refused, done.images, "are left out"))
    terminal.tell(f"When all {part.count} are done: headstart cache merge OTHER... ; then headstart fit without --shard.")
    terminal.result(f"shard {part.index}/{part.count}: {done.images} images, {done.computed} computed now, stored in {done.store}")


def _name_of(data: str) -> str:
    there = Path(data).expanduser()
    whole = there.resolve()
    return ((whole.name if whole.is_dir() else whole.stem) if there.exists() else data.replace(":", "-").replace("/", "-")) or "run"


def show_result(result: FitResult, terminal: Terminal) -> None:
    """Print the summary; the last line is the result, the same on a terminal and in a pipe."""
    terminal.speak_of(result.dataset.modality)
    terminal.tell(*result.test.lines(), "")
    if chosen := next((row for row in result.tried if row.outcome == "chosen"), None):
        terminal.fact("backbone", f"{chosen.title}; the best of {plural(sum(row.images > 0 for row in result.tried), 'tried one')}")
    terminal.fact("head", result.head)
    if result.choice.reason:
        terminal.fact("why", result.choice.reason)
    if (adaptation := result.learned.adaptation) is not None:
        terminal.fact("adapted", adaptation.sentence())
    if result.baseline is not None:
        terminal.fact("baseline", result.baseline.sentence())
    if result.probe is not None:
        terminal.fact("before", result.probe.summary().removeprefix("before: "))
    for name, probe in result.probes.items():
        terminal.fact("before", f"{name}: {probe.summary().removeprefix('before: ')}")
    terminal.fact("tested on", result.held_out)
    if result.cross_validation is not None:
        terminal.fact("folds", f"{result.cross_validation.summary('cross-validated')}; by fold {_by_fold(result.by_fold)}")
    if result.refused:
        left_out = plural(len(result.refused), "unreadable image")
        terminal.fact("left out", f"{left_out}, listed in the run's manifest.json", style="yellow")
    if grave := [finding.message for finding in result.findings if finding.severity == "error"]:
        terminal.fact("beware", f"do not trust the score until this is resolved: {' '.join(grave)}", style="bold red")
    _show_reliability(result, terminal)
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items() if stage != "total" and value >= 0.05)
    terminal.fact("time", f"{result.seconds['total']:.1f} s" + (f": {seconds}" if seconds else ""))
    if result.run is not None:
        terminal.fact("run", f"{result.run} (open {result.run / 'report.html'})")
        terminal.fact("next", f"headstart predict {shlex.quote(str(result.run))} {result.dataset.modality.noun.upper()}")
    terminal.result(result.test.summary("test"), style="bold green")


def _by_fold(scores: Sequence[float]) -> str:
    """The score of each fold; of many the lowest and the highest."""
    if len(scores) <= _FOLDS_SHOWN:
        return ", ".join(f"{score:.4f}" for score in scores)
    return f"{min(scores):.4f} to {max(scores):.4f}"


def _show_reliability(result: FitResult, terminal: Terminal) -> None:
    from headstart.reliability.shift import MEANING, WITHIN

    tested, curve = result.judged.reliability_test, result.judged.learning_curve
    shifted = tested is not None and tested.shift.found
    if tested is not None and tested.shift.found:
        terminal.fact("beware", f"{tested.shift.lead('test images')} {MEANING}", style="bold red")
    elif tested is not None and tested.coverage is not None and tested.size is not None:
        terminal.fact("sets", f"prediction sets: mean size {tested.size:.2f}, coverage {tested.coverage:.1%}")
    if curve is not None:
        terminal.fact("more", f"{WITHIN if shifted else ''}{curve.sentence}")


_SEARCHED = OptionsOf(
    (FitSettings, FineTuning),
    without=("head", "plan", "coverage", "coverage_by_class", "folds", "lr", "epochs", "steps", "early_stop", "average", "logger"),
    help={"seed": "The same seed gives the same curve.", "test": "Test images, as in `headstart fit`; they are not used."},
    default={"strategy": "partial"},
)


@dataclass(frozen=True, kw_only=True)
class _Search(Settings):
    """The search itself; `find_learning_rate` checks the rates."""

    out: Path | None = option(None, "Draw the curve into this file.", _PNG, metavar="FILE.png")
    low: float = option(1e-6, "Learning rate of the first step.", number())
    high: float = option(1.0, "Learning rate of the last step, unless the loss diverges before.", number())
    steps: int = option(100, "Steps of the search.", whole(1), metavar="N")


@command("lr-find", "Find a learning rate for a training.")
def lr_find_command(terminal: Terminal, context: typer.Context, data: Data, *, search: _Search, typed: Annotated[Typed, _SEARCHED]) -> None:
    """Find a learning rate: train for a moment with a rate that rises from step to step, and see where the loss falls.

    DATA and the options are those of `headstart fit`. Test images are not used, no run is written, and the trained weights are discarded.

    Examples:
      headstart lr-find photos/
      headstart lr-find photos/ --strategy full --augment standard
      headstart lr-find photos/ --out curve.png
    """
    from headstart.pipeline import find_learning_rate
    from headstart.training.learning_rates import lr_text

    settings = fit_settings(typed, strategy="partial")
    if settings.fine_tuning is None:
        raise ParameterError(
            "With --strategy probe the head is fitted in closed form, and there is no learning rate to find. "
            "Give --strategy partial or full; or --head-layers, to train a head of dense layers."
        )
    check_writable(search.out)
    found = find_learning_rate(data, settings, low=search.low, high=search.high, steps=search.steps, listener=terminal)
    if search.out is not None:
        from headstart.report import draw_png
        from headstart.report.training import lr_chart
        from headstart.sections import Charts

        with writable(search.out):
            draw_png(Charts((lr_chart(found),)), search.out)
    _show_search(found, terminal)
    if search.out is not None:
        terminal.fact("curve", str(search.out))
    options_of_fit = words_typed(context, without=("data", "strategy", "low", "high", "steps", "out", "quiet", "verbose"))
    words = ["headstart", "fit", data, "--strategy", settings.fine_tuning.strategy, *options_of_fit, "--lr", lr_text(found.suggested)]
    terminal.result(shlex.join(words), style="bold green")


def _show_search(found: LearningRates, terminal: Terminal) -> None:
    """Print the curve as a small table, and what follows from it."""
    from headstart.training.learning_rates import lr_text

    terminal.tell(f"{'lr':>8}  {'loss':>8}", style="bold")
    terminal.tell(*(f"{lr_text(rate):>8}  {smoothed:>8.4f}" for rate, smoothed in found.rows()), "")
    end = "the loss diverged there" if found.diverged else "the loss did not diverge"
    terminal.fact("search", f"{len(found.lrs)} steps, up to {lr_text(found.lrs[-1])}; {end}")
    terminal.fact("why", found.reason)
