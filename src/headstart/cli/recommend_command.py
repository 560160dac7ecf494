"""``headstart recommend``."""

from __future__ import annotations

import math
import shlex
import shutil
from typing import Annotated

import typer

from headstart.cli.application import command, write_json
from headstart.cli.options import Data, JsonFile, OptionsOf, Typed, fit_settings, words_typed
from headstart.cli.terminal import Terminal
from headstart.settings import FitSettings, ListOptions
from headstart.settings.field import options
from headstart.settings.wishes import Wishes
from headstart.text import duration, percent

_READ = ("test", "backbone", "head", "class_weight", "fit_image", "group_from", "seed", "engine", "cache", *options(ListOptions))


@command("recommend", "Which backbone to take for your data.")
def recommend_command(
    terminal: Terminal,
    context: typer.Context,
    data: Data,
    *,
    wishes: Wishes,
    json: JsonFile = None,
    typed: Annotated[Typed, OptionsOf((FitSettings,), only=_READ, help={"backbone": "Where the search begins."})],
) -> None:
    """Say which backbone to take for your data, for the place where the model will run, and within limits.

    A sample of the training images goes through each backbone that needs no download: accuracy is measured out of sample, speed and size on
    this machine. Backbones that would have to be downloaded are listed with the command. Test images are not looked at.

    Examples:
      headstart recommend photos/
      headstart recommend photos/ --deploy phone
      headstart recommend photos/ --latency 20ms --size 20MB --budget 5m
    """
    from headstart.pipeline.recommending import FORMATS, recommend

    found = recommend(data, settings=fit_settings(typed), wishes=wishes, listener=terminal)
    if json is not None:
        write_json(json, found.to_dict())
    head = ("backbone", "accuracy", "95 % interval", "fit", "an image", "MB", "licence", "")
    cells = [
        (
            row.backbone, percent(row.accuracy), "-" if math.isnan(row.accuracy) else f"{row.interval[0]:.3f} to {row.interval[1]:.3f}",
            duration(row.fit_seconds), duration(row.milliseconds / 1000), "-" if math.isnan(row.megabytes) else f"{row.megabytes:.0f}",
            row.licence, row.reason if row.outcome == "recommended" else f"{row.outcome}: {row.reason}",
        )
        for row in found.rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head) - 1)]
    for line in (head, *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) + f"  {line[-1]}"
        terminal.tell(text.rstrip() if shutil.get_terminal_size().columns < len(text) else text, style="bold" if line is head else "")
    terminal.tell("", *found.sentences())
    best = found.rows[0]
    if best.outcome != "recommended":
        least = min((row for row in found.rows if not math.isnan(row.accuracy)), key=lambda row: row.megabytes)
        measured = f"{least.megabytes:.0f} MB, {duration(least.milliseconds / 1000)} an image"
        terminal.result(f"No backbone that is here satisfies the limits; the smallest is {least.backbone}: {measured}.")
        return
    words = words_typed(context, without=("data", "backbone", "deploy", "latency", "size", "budget", "json", "quiet", "verbose"))
    terminal.tell(f"For a {found.deploy}, then: headstart export RUN --format {FORMATS[found.deploy]}")
    terminal.result(shlex.join(["headstart", "fit", data, "--backbone", best.backbone, *words]))
