"""``headstart cache``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import FAILED, CacheFolder, Verbose, application, guarded
from headstart.cli.terminal import TerminalListener, print_result

if TYPE_CHECKING:
    from headstart.features import FeatureStore

_EXAMPLES = """\b
Examples:
  headstart cache show
  headstart cache verify --repair
  headstart cache prune --older-than 90
  headstart cache merge shard1 shard2
"""

cache_application = typer.Typer(
    name="cache",
    help="Show, check, shrink and merge the stored features.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.add_typer(cache_application)


def _store(cache: str | None, *, must_exist: bool = True) -> FeatureStore:
    from headstart import files
    from headstart.errors import InputError
    from headstart.features import FeatureStore

    path = files.feature_store_file(files.cache_folder(cache))
    if must_exist and not path.exists():
        raise InputError(f"{path}: no features are stored there yet. `headstart fit` stores them; --cache DIR names another folder.")
    return FeatureStore(path)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


@cache_application.command(name="show", epilog="Example:  headstart cache show --cache shard1")
@guarded
def show(cache: CacheFolder = None, verbose: Verbose = False) -> None:
    """What is stored, by extractor."""
    with _store(cache) as store:
        summary = store.summary()
    print_result(f"{summary.path}  {_size(summary.file_bytes)}")
    for entry in summary.extractors:
        print_result(f"  {entry.rows:>8} images  {_size(entry.bytes):>9}  last used {entry.last_used:%Y-%m-%d}  {entry.extractor_id}")
    if not summary.extractors:
        print_result("  no features")
    if summary.memos:
        print_result(f"  {summary.memos:>8} fitted {'head' if summary.memos == 1 else 'heads'}  {_size(summary.memo_bytes)}")


@cache_application.command(name="verify", epilog="Example:  headstart cache verify --repair")
@guarded
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Remove damaged rows; they are computed again when needed.")] = False,
    cache: CacheFolder = None,
    verbose: Verbose = False,
) -> None:
    """Check every stored vector and the file itself. Exit code 1 if something is wrong and was not repaired."""
    with _store(cache) as store, TerminalListener(verbose=verbose) as listener:
        listener.stage("Verifying")
        found = store.verify(repair=repair, progress=listener.progress)
    print_result(f"{found.good} vectors are whole, {found.bad} are damaged" + (f", {found.removed} removed" if repair else ""))
    for fault in found.faults:
        print_result(f"the file: {fault}")
    if found.rebuilt:
        print_result("the file was written anew")
    if not found.sound and not repair:
        print_result("Repair it with: headstart cache verify --repair")
        raise typer.Exit(FAILED)


@cache_application.command(name="prune", epilog="Example:  headstart cache prune --older-than 90 --keep 500")
@guarded
def prune(
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Remove what was not used for so many days.")] = None,
    keep: Annotated[float | None, typer.Option(metavar="MB", help="Remove what was used longest ago, until so many MB are left.")] = None,
    extractor: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove the features of this extractor (as `show` prints it).")
    ] = None,
    cache: CacheFolder = None,
    verbose: Verbose = False,
) -> None:
    """Remove features and give their space back to the disk."""
    with _store(cache) as store:
        done = store.prune(extractor_id=extractor, older_than_days=older_than, max_bytes=None if keep is None else int(keep * 1e6))
    print_result(
        f"removed {done.rows} vectors and {done.memos} fitted heads: {_size(done.bytes_before)} before, {_size(done.bytes_after)} now"
    )


@cache_application.command(name="merge", epilog="Example:  headstart cache merge shard1 shard2/features.sqlite")
@guarded
def merge(
    others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Cache folders or store files, for example of --shard runs.")],
    cache: CacheFolder = None,
    verbose: Verbose = False,
) -> None:
    """Take over the features of other stores. Doing it twice changes nothing."""
    from headstart import files

    with _store(cache, must_exist=False) as store, TerminalListener(verbose=verbose) as listener:
        for other in others:
            path = files.feature_store_file(other) if other.is_dir() else other
            listener.stage(f"Merging {path}")
            merged = store.merge(path, progress=listener.progress)
            extra = f", {merged.damaged} damaged and passed over" if merged.damaged else ""
            print_result(f"{path}: {merged.added} added, {merged.present} already there{extra}")
