"""``headstart backbones`` and ``headstart fetch``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import command
from headstart.cli.options import CacheFolder
from headstart.cli.terminal import Terminal
from headstart.errors import BackboneError, ParameterError
from headstart.files import cache_folder

if TYPE_CHECKING:
    from headstart.backbones import BackboneRecord


@command("backbones", "The catalogue of pre-trained backbones.")
def backbones_command(
    terminal: Terminal,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show everything known about this backbone.")] = None,
    sort: Annotated[str, typer.Option(metavar="KEY", help="Best or smallest first: top1, gflops, parameters, ...")] = "catalogue",
    everything: Annotated[bool, typer.Option("--all", help="Every timm model, not only the catalogue.")] = False,
    stages: Annotated[bool, typer.Option("--stages", help="Show the stages of NAME with their size and cost.")] = False,
) -> None:
    """The catalogue of pre-trained backbones: size, cost, ImageNet accuracy, licence. Those marked * come with Headstart.

    Examples:
      headstart backbones --sort top1
      headstart backbones ResNet50
      headstart backbones ResNet50 --stages     (the names for `headstart fit --unfreeze`)
      headstart backbones --all          (every timm model; needs headstart[torch])
    """
    from headstart.backbones import all_timm_models, catalogue, find, sorted_records

    if stages and name is None:
        raise ParameterError("--stages shows the stages of one backbone: give its NAME, as in `headstart backbones ResNet50 --stages`.")
    if name is not None:
        (_show_stages if stages else _show_one)(find(name), terminal)
        return
    records = all_timm_models() if everything else catalogue()
    _show_table(list(sorted_records(records, key=sort)), terminal)


def _number(value: float | None, *, scale: float = 1, digits: int = 1) -> str:
    return "-" if value is None else f"{value / scale:.{digits}f}"


def _show_table(records: list[BackboneRecord], terminal: Terminal) -> None:
    from headstart.backbones.handcrafted import TITLES

    header = ("name", "also", "M params", "GFLOPs", "depth", "px", "MB", "top-1", "top-5", "licence")
    rows = [
        (
            f"{record.name}{' *' if record.embedded else ''}", record.aliases[0] if record.aliases else "",
            _number(record.parameters, scale=1e6), _number(record.gflops, digits=2), _number(record.depth, digits=0),
            str(record.input_size), _number(record.file_size, scale=1e6, digits=0), _number(record.top1), _number(record.top5),
            record.licence or "-",
        )
        for record in records
    ]  # fmt: skip
    _print_table(terminal, header, rows, left=(0, 1, 9))
    terminal.tell(
        "",
        "* comes with Headstart and works offline; the others are downloaded when first used, which headstart[torch] does.",
        "GFLOPs count a multiplication and an addition as two. `headstart backbones NAME` names the source of every figure.",
        "",
        "Handcrafted features, alone (`headstart fit DATA --features hog,sift,color`) or beside a backbone:",
        *(f"  {name:<6} {title}" for name, title in TITLES.items()),
    )


def _print_table(terminal: Terminal, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, left: tuple[int, ...]) -> None:
    """Columns as wide as they need to be; those of `left` begin at the left, the others are numbers."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminal.result("  ".join(cells).rstrip(), style="bold" if row is header else None)


def _show_stages(record: BackboneRecord, terminal: Terminal) -> None:
    from headstart.backbones.summary import stage_table

    if record.handcrafted:
        raise ParameterError(f"{record.name}: handcrafted features have no stages, and nothing in them can be trained. Name a backbone.")
    table = stage_table(record)

    def row(name: str, parameters: int, flops: int) -> tuple[str, ...]:
        shares = f"{100 * parameters / table.parameters:.1f} %", f"{100 * flops / max(table.flops, 1):.1f} %"
        return name, f"{parameters:,}", shares[0], _number(flops, scale=1e9, digits=3), shares[1]

    rows = [row(stage.name, stage.parameters, stage.flops) for stage in table.stages]
    rows.append(row("all", table.parameters, table.flops))
    rows.append(("head", f"{table.dim + 1:,}", "a class", _number(2 * table.dim, scale=1e9, digits=3), "a class"))
    terminal.result(record.name, style="bold")
    _print_table(terminal, ("stage", "parameters", "share", "GFLOPs", "share"), rows, left=(0,))
    terminal.tell(
        "",
        f"GFLOPs are for one image of {record.input_size} px; a multiplication and an addition count as two.",
        f"The head is one layer from {table.dim} features to your classes. It is always trained; stages are trained if you name them:",
        f"  headstart fit DATA --backbone {record.name} --strategy partial --unfreeze {','.join(table.names[-2:])}",
    )


def _show_one(record: BackboneRecord, terminal: Terminal) -> None:
    from headstart.backbones.handcrafted import TITLES

    if record.name in TITLES:
        terminal.result(record.name, style="bold")
        terminal.result(TITLES[record.name])
        terminal.result(f"{record.dim} features of images of {record.input_size} px; no weights, licence {record.licence}")
        terminal.tell("", f"  headstart fit DATA --features {record.name}")
        return
    sources = record.figure_sources
    figures = {
        "parameters": _number(record.parameters, scale=1e6, digits=2) + " million",
        "gflops": _number(record.gflops, digits=2) + " (a multiplication and an addition count as two)",
        "depth": _number(record.depth, digits=0) + " layers with weights",
        "input_size": f"{record.input_size} px",
        "file_size": _number(record.file_size, scale=1e6) + " MB",
        "top1": _number(record.top1, digits=2) + " % on ImageNet",
        "top5": _number(record.top5, digits=2) + " % on ImageNet",
        "licence": record.licence or "-",
        "dim": f"{record.dim} features of the last layer",
        "crop": f"{record.crop:g} of the shorter side, {record.interpolation}",
        "mean": f"{', '.join(f'{value:g}' for value in record.mean)}   std {', '.join(f'{value:g}' for value in record.std)}",
    }
    terminal.result(record.name, style="bold")
    terminal.result(f"{'also called':<12} {', '.join(record.aliases) or '-'}")
    terminal.result(f"{'weights':<12} {record.source}{'   (comes with Headstart)' if record.embedded else ''}")
    room = shutil.get_terminal_size((100, 20)).columns >= 100
    for key, value in figures.items():
        source = sources.get(key, "")
        if room:
            terminal.result(f"{key:<12} {value:<52} {source}".rstrip())
        else:
            terminal.result(f"{key:<12} {value}")
            if source:
                terminal.result(f"{'':<12}   from: {source}")


@command("fetch", "Download backbones once, for use without internet.")
def fetch_command(
    terminal: Terminal,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Backbones, as `headstart backbones` names them.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write the weight files here, for another machine.")] = None,
    cache: CacheFolder = None,
) -> None:
    """Download backbones once and convert them; from then on they need no internet. Needs headstart[torch].

    What is downloaded, from where, how large it is and its licence are printed first, and its SHA-256 afterwards.

    Examples:
      headstart fetch resnet50
          then, without internet: headstart fit photos/ --backbone resnet50
      headstart fetch vit_small_patch14_dinov2 tiny_vit_5m_224 --out weights/
          then, on another machine: headstart fit photos/ --backbone tiny_vit_5m_224 --weights weights/FILE
    """
    from headstart.backbones import fetch, find

    failed, records = [], list(map(find, names))  # a name that is none stops the command before the first download
    for name, record in zip(names, records, strict=True):
        try:
            fetched = fetch(name, cache=cache_folder(cache), announce=terminal.say, out=out)
        except BackboneError as error:
            failed.append(str(error))
            continue
        how = "comes with Headstart" if record.embedded else "was fetched before" if fetched.already else "fetched"
        terminal.result(f"{record.name}  {how}: {fetched.file}, {fetched.file.stat().st_size / 1e6:.1f} MB")
        weights = [] if out is None else ["--weights", str(fetched.file)]
        terminal.tell("  " + shlex.join(["headstart", "fit", "DATA", "--backbone", name, *weights]))
    if failed:
        raise BackboneError("\n".join(failed))
