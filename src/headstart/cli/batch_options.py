"""The options of ``headstart predict --batch``, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT
from headstart.cli.terminal import TerminalListener, print_result
from headstart.errors import ParameterError

if TYPE_CHECKING:
    from headstart.batch import BatchResult

Batch = Annotated[bool, typer.Option("--batch", help="Write a table to --out, for folders of any size.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Of --batch and --merge: the table; ends in .parquet, .csv or .jsonl.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Of --batch: continue a job that was interrupted; start it if there is none.")]
ShardOf = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Of --batch: make only the I-th of N parts of the table.")]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|auto|local", help="Of --batch: work on a Ray cluster; every node must see RUN and the images."),
]
Merge = Annotated[bool, typer.Option("--merge", help="Put the tables of all shards, given in place of images, together into --out.")]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The options as they were given."""

    out: Path | None
    resume: bool
    shard: str | None
    ray: str | None
    merge: bool

    def check_alone(self) -> None:
        """Refuse options of ``--batch`` without it.

        Raises:
            ParameterError: one was given.
        """
        options = {"--out": self.out, "--resume": self.resume, "--shard": self.shard, "--ray": self.ray}
        lonely = next((name for name, value in options.items() if value), None)
        if lonely is not None:
            raise ParameterError(f"{lonely} belongs to --batch, which writes a table: add --batch, or leave {lonely} out.")


def run_batch(
    run: Path,
    images: list[Path],
    given: BatchOptions,
    *,
    form: str | None,
    top: int,
    accuracy: float | None,
    engine: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Do what ``--batch`` or ``--merge`` asks for.

    Raises:
        ParameterError: options that cannot be combined, or no ``--out``.
    """
    from headstart.batch import BatchSettings, merge, on_ray, predict_folder
    from headstart.data.shards import Shard

    if given.out is None:
        raise ParameterError("--batch and --merge write a table: say where, for example --out predictions.parquet.")
    if form is not None:
        raise ParameterError(
            f"--format says how to print, and --batch writes what the suffix of --out says ({given.out}). Leave --format out."
        )
    if given.merge:
        if given.shard or given.ray or given.resume:
            raise ParameterError("--merge reads tables that are done: leave --shard, --ray and --resume out.")
        _say(merge(run, images, out=given.out))
        return
    shard = None if given.shard is None else Shard.parse(given.shard)
    settings = BatchSettings(top=top, accuracy=accuracy, engine=engine, resume=given.resume, shard=shard)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        compute = None if given.ray is None else on_ray(given.ray, images, listener=listener)
        result = predict_folder(run, images, out=given.out, settings=settings, listener=listener, compute=compute)
    _say(result)
    if result.images and result.refused == result.images:
        raise typer.Exit(BAD_INPUT)


def _say(result: BatchResult) -> None:
    refused = f", {result.refused} of them refused" if result.refused else ""
    kept = result.images - result.computed
    now = f" ({kept} found from before)" if result.computed and kept else ""
    print_result(f"{result.images} images{refused}{now} in {result.out}")
