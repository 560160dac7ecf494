"""``headstart lr-find``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli import data_options, training_options
from headstart.cli.application import CacheFolder, Quiet, Verbose, application, check_writable, guarded, writable
from headstart.cli.fit_command import columns_of
from headstart.cli.terminal import TerminalListener, hanging, print_result

if TYPE_CHECKING:
    from headstart.training.learning_rates import LearningRates

_HELP = """Find a learning rate: train for a moment with a rate that rises from step to step, and see where the loss falls.

DATA and the options are those of `headstart fit`. Test images take no part, no run is written, and nothing of the training is kept.
"""
_EXAMPLES = """\b
Examples:
  headstart lr-find photos/
  headstart lr-find photos/ --strategy full --augment standard
  headstart lr-find photos/ --out curve.png
"""
_OWN = ("data", "strategy", "low", "high", "steps", "out", "quiet", "verbose")
"""Options that `headstart fit` does not have, has with another meaning, or is given anyway."""


@application.command(name="lr-find", help=_HELP, epilog=_EXAMPLES, short_help="Find a learning rate for a training.")
@guarded
def lr_find_command(
    context: typer.Context,
    data: data_options.Data,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curve into this file.")] = None,
    low: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Learning rate of the last step, unless the loss diverges before.")] = 1.0,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the search.")] = 100,
    test: Annotated[str | None, typer.Option(metavar="DIR", help="Test images, as of fit: they take no part.")] = None,
    backbone: data_options.Backbone = "efficientnet_lite0",
    weights: data_options.Weights = None,
    class_weight: data_options.ClassWeight = None,
    fit_image: data_options.FitImage = None,
    test_share: data_options.TestShare = 0.2,
    group_from: data_options.GroupFrom = None,
    column: data_options.Column = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same curve.")] = 0,
    engine: data_options.Engine = "auto",
    strategy: training_options.Strategy = "partial",
    unfreeze: training_options.Unfreeze = None,
    layer_decay: training_options.LayerDecay = None,
    batch_size: training_options.BatchSize = None,
    augment: training_options.Augment = None,
    views: training_options.Views = None,
    optimizer: training_options.Optimizer = None,
    loss: training_options.LossName = None,
    label_smoothing: training_options.LabelSmoothing = None,
    head_layers: training_options.HeadLayers = None,
    dropout: training_options.Dropout = None,
    pooling: training_options.Pooling = None,
    image_size: training_options.ImageSize = None,
    precision: training_options.Precision = None,
    retain: training_options.Retain = None,
    device: training_options.Device = None,
    cache: CacheFolder = None,
    no_cache: data_options.NoCache = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find a learning rate."""
    from headstart.errors import ParameterError
    from headstart.pipeline import FitSettings, find_learning_rate

    plan = training_options.fine_tuning(
        strategy,
        dict(  # noqa: C408
            unfreeze=unfreeze, layer_decay=layer_decay, batch_size=batch_size, augment=augment, views=views, optimizer=optimizer, loss=loss,
            label_smoothing=label_smoothing, head_layers=head_layers, dropout=dropout, pooling=pooling, image_size=image_size,
            precision=precision, retain=retain, device=device,
        ),
    )  # fmt: skip
    if plan is None:
        raise ParameterError(
            "With --strategy probe the head is fitted in closed form, and there is no learning rate to find. "
            "Give --strategy partial or full; or --head-layers, to train a head of dense layers."
        )
    if out is not None and out.suffix.lower() != ".png":
        raise ParameterError(f"--out takes the name of a .png file, got {out}.")
    check_writable(out)
    settings = FitSettings(
        test=test, test_share=test_share, group_from=group_from, columns=columns_of(column), backbone=backbone, weights=weights,
        class_weight=class_weight, fit_image=fit_image, cache=None if no_cache else cache or "auto", engine=engine, seed=seed,
        fine_tuning=plan,
    )  # fmt: skip
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        found = find_learning_rate(data, settings, low=low, high=high, steps=steps, listener=listener)
    if out is not None:
        from headstart.report.lr_curve import lr_curve_png

        with writable(out):
            lr_curve_png(found, out)
    if not quiet:
        _show(found, out)
    print_result(_command(context, data, strategy, found.suggested), style="bold green")


def _show(found: LearningRates, out: Path | None) -> None:
    """Print the curve as a small table, and what follows from it."""
    from headstart.training.learning_rates import in_words

    print_result(f"{'lr':>8}  {'loss':>8}", style="bold")
    for rate, smoothed in found.rows():
        print_result(f"{in_words(rate):>8}  {smoothed:>8.4f}")
    print_result()
    end = "the loss diverged there" if found.diverged else "the loss did not diverge"
    print_result(f"{'search':<9} {len(found.lrs)} steps, up to {in_words(found.lrs[-1])}; {end}")
    print_result(hanging(f"{'why':<9} {found.reason}", indent=10))
    if out is not None:
        print_result(f"{'curve':<9} {out}")


def _command(context: typer.Context, data: str, strategy: str, rate: float) -> str:
    """The command that trains with this rate: what was typed, as far as `headstart fit` has it."""
    from headstart.training.learning_rates import in_words

    words = ["headstart", "fit", data, "--strategy", strategy]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in _OWN or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append(parameter.opts[0])
        else:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [parameter.opts[0], str(each)]
    return shlex.join([*words, "--lr", in_words(rate)])
