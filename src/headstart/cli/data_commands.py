"""``headstart check`` and ``headstart cache``: the data, and the features stored of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal as size

from headstart.cli.application import FAILED, command, command_group, write_json
from headstart.cli.options import CacheFolder, OptionsOf, Typed, fit_settings, words_typed
from headstart.cli.terminal import Terminal
from headstart.errors import InputError, ParameterError
from headstart.files import check_writable
from headstart.settings import FitSettings, ListOptions
from headstart.settings.field import PATH, SWITCH, Settings, option, options
from headstart.text import plural

if TYPE_CHECKING:
    from headstart.features import FeatureStore


@dataclass(frozen=True, kw_only=True)
class _Check(Settings):
    """How thorough a check is, and what it writes."""

    deep: bool = option(False, "Also near copies, wrong labels and boxes, outliers, and what leaks do to the score.", SWITCH)
    fix: Path | None = option(None, "With --deep: write a plan for `headstart fit --plan`.", PATH, metavar="FILE")
    out: Path | None = option(None, "Write all findings as JSON.", PATH, metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fix is not None and not self.deep:
            raise ParameterError("--fix needs what --deep finds. Type: headstart check DATA --deep --fix FILE")
        check_writable(self.out, self.fix)


_CHECKED = ("test", "group_from", "levels", "background", "backbone", "weights", "engine", "cache", *options(ListOptions))


@command("check", "What is wrong with the data, before any training.")
def check_command(
    terminal: Terminal,
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for `headstart fit`.")],
    *,
    how: _Check,
    typed: Annotated[Typed, OptionsOf((FitSettings,), only=_CHECKED)],
) -> None:
    """Say what is wrong with the data, before any training. Nothing is changed.

    Unreadable files, copies, leaks between the parts, groups in the file names, shortcuts by which a class can be told apart without
    looking at the picture. With --deep, what only features show: near copies, labels that are probably wrong, boxes that are missing or
    of a wrong class, outliers.

    Examples:
      headstart check photos/
      headstart check photos/ --deep --fix plan.json
          then: headstart fit photos/ --plan plan.json
      headstart check list.csv --out findings.json
    """
    from headstart.audit import check

    settings = fit_settings(typed)
    if how.deep:
        from headstart.pipeline import deep_check

        found = deep_check(data, settings=settings, listener=terminal)
        audit = found.audit
        if how.fix is not None:
            found.plan.write(how.fix)
    else:
        from headstart.pipeline.reading import read

        terminal.stage("Reading the data")
        _, dataset = read(data, settings)
        terminal.stage(f"Checking {plural(len(dataset), dataset.noun)}")
        audit = check(dataset, progress=terminal.progress)
    if how.out is not None:
        write_json(how.out, audit.to_dict())
    *lines, last = audit.lines()
    terminal.tell(*lines)
    terminal.result(last)
    if how.fix is not None:
        repeated = words_typed(context, without=("data", "deep", "fix", "out", "cache", "quiet", "verbose"))
        words = shlex.join(["headstart", "fit", data, *repeated, "--plan", str(how.fix)])
        terminal.tell(f"{how.fix}: the plan. Read it, change it, then: {words}")


_CACHE_EXAMPLES = """
  headstart cache show
  headstart cache verify --repair
  headstart cache prune --older-than 90
  headstart cache merge shard1 shard2
"""
cache_application = command_group("cache", help="Show, check, shrink and merge the stored features.", examples=_CACHE_EXAMPLES)


def _store(cache: str | None, *, must_exist: bool = True) -> FeatureStore:
    from headstart import files
    from headstart.features import FeatureStore

    path = files.feature_store_file(files.cache_folder(cache))
    if must_exist and not path.exists():
        raise InputError(f"{path}: no features are stored there yet. `headstart fit` stores them; --cache DIR selects another folder.")
    return FeatureStore(path)


@command("show", group=cache_application)
def show(terminal: Terminal, cache: CacheFolder = None) -> None:
    """What is stored, by extractor.

    Example:  headstart cache show --cache shard1
    """
    with _store(cache) as store:
        summary = store.summary()
    terminal.result(f"{summary.path}  {size(summary.file_bytes)}")
    for entry in summary.extractors:
        terminal.result(f"  {entry.rows:>8} images  {size(entry.bytes):>9}  last used {entry.last_used:%Y-%m-%d}  {entry.extractor_id}")
    if not summary.extractors:
        terminal.result("  no features")
    if summary.results:
        terminal.result(f"  {summary.results:>8} cached {'result' if summary.results == 1 else 'results'}  {size(summary.result_bytes)}")


@command("verify", group=cache_application)
def verify(
    terminal: Terminal,
    repair: Annotated[bool, typer.Option("--repair", help="Remove damaged vectors; they are computed again when needed.")] = False,
    cache: CacheFolder = None,
) -> None:
    """Check every stored vector and the file itself. Exit code 1 if something is wrong and was not repaired.

    Example:  headstart cache verify --repair
    """
    with _store(cache) as store:
        terminal.stage("Verifying")
        found = store.verify(repair=repair, progress=terminal.progress)
    terminal.result(f"{found.good} vectors are intact, {found.bad} are damaged" + (f", {found.removed} removed" if repair else ""))
    for fault in found.faults:
        terminal.result(f"the file: {fault}")
    if found.rebuilt:
        terminal.result("the file was rebuilt")
    if not found.sound and not repair:
        terminal.result("Repair it with: headstart cache verify --repair")
        raise typer.Exit(FAILED)


@command("prune", group=cache_application)
def prune(
    terminal: Terminal,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Remove features that have not been used for DAYS days.")] = None,
    keep: Annotated[float | None, typer.Option(metavar="MB", help="Remove the least recently used features until MB are left.")] = None,
    extractor: Annotated[str | None, typer.Option(metavar="ID", help="Remove the features of this extractor, as `show` names it.")] = None,
    cache: CacheFolder = None,
) -> None:
    """Remove features and give their space back to the disk.

    Example:  headstart cache prune --older-than 90 --keep 500
    """
    with _store(cache) as store:
        done = store.prune(extractor_id=extractor, older_than_days=older_than, max_bytes=None if keep is None else int(keep * 1e6))
    sizes = f"{size(done.bytes_before)} before, {size(done.bytes_after)} now"
    terminal.result(f"removed {done.rows} vectors and {done.results} cached results: {sizes}")


@command("merge", group=cache_application)
def merge(
    terminal: Terminal,
    others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Cache folders or store files, for example of --shard runs.")],
    cache: CacheFolder = None,
) -> None:
    """Copy the features of other stores into this one. Merging twice changes nothing.

    Example:  headstart cache merge shard1 shard2/features.sqlite
    """
    from headstart import files

    with _store(cache, must_exist=False) as store:
        for other in others:
            path = files.feature_store_file(other) if other.is_dir() else other
            terminal.stage(f"Merging {path}")
            merged = store.merge(path, progress=terminal.progress)
            extra = f", {merged.damaged} damaged and skipped" if merged.damaged else ""
            terminal.result(f"{path}: {merged.added} added, {merged.present} already there{extra}")
