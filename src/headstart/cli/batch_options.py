"""The options of ``headstart predict --batch``, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headstart.cli.application import BAD_INPUT
from headstart.cli.terminal import TerminalListener, print_result
from headstart.errors import ParameterError
from headstart.settings.field import PATH, SWITCH, TEXT, Limit, Settings, number, option

if TYPE_CHECKING:
    from headstart.batch import BatchResult


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Settings):
    """The options of ``headstart predict``, with and without ``--batch``."""

    form: str | None = option(None, "How to print.", TEXT, flag="--format", metavar="table|csv|json", shown="table")
    top: int = option(
        1, "How many classes of each image, the most probable first.", Limit("a whole number", lambda value: True), metavar="K"
    )
    accuracy: float | None = option(
        None, "Predict only where the model is right that often, such as 0.99, and abstain from the rest.", number(), metavar="A"
    )
    engine: str = option("auto", "auto, openvino or onnxruntime.", TEXT, metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Settings):
    """The options of ``--batch`` and ``--merge``."""

    batch: bool = option(False, "Write a table to --out, for folders of any size.", SWITCH)
    out: Path | None = option(None, "Of --batch and --merge: the table; ends in .parquet, .csv or .jsonl.", PATH, metavar="FILE")
    resume: bool = option(False, "Of --batch: continue a job that was interrupted; start it if there is none.", SWITCH)
    shard: str | None = option(None, "Of --batch: make only the I-th of N parts of the table.", TEXT, metavar="I/N")
    ray: str | None = option(
        None, "Of --batch: work on a Ray cluster; every node must see RUN and the images.", TEXT, metavar="ADDRESS|auto|local"
    )
    merge: bool = option(False, "Put the tables of all shards, given in place of images, together into --out.", SWITCH)

    def check_alone(self) -> None:
        """Refuse options of ``--batch`` without it.

        Raises:
            ParameterError: one was given.
        """
        options = {"--out": self.out, "--resume": self.resume, "--shard": self.shard, "--ray": self.ray}
        lonely = next((name for name, value in options.items() if value), None)
        if lonely is not None:
            raise ParameterError(f"{lonely} belongs to --batch, which writes a table: add --batch, or leave {lonely} out.")


def run_batch(run: Path, images: list[Path], batch: BatchOptions, options: PredictOptions, *, quiet: bool, verbose: bool) -> None:
    """Do what ``--batch`` or ``--merge`` asks for.

    Raises:
        ParameterError: options that cannot be combined, or no ``--out``.
    """
    from headstart.batch import BatchSettings, merge, on_ray, predict_folder
    from headstart.data.shards import Shard

    if batch.out is None:
        raise ParameterError("--batch and --merge write a table: say where, for example --out predictions.parquet.")
    if options.form is not None:
        raise ParameterError(
            f"--format says how to print, and --batch writes what the suffix of --out says ({batch.out}). Leave --format out."
        )
    if batch.merge:
        if batch.shard or batch.ray or batch.resume:
            raise ParameterError("--merge reads tables that are done: leave --shard, --ray and --resume out.")
        _say(merge(run, images, out=batch.out))
        return
    shard = None if batch.shard is None else Shard.parse(batch.shard)
    settings = BatchSettings(top=options.top, accuracy=options.accuracy, engine=options.engine, resume=batch.resume, shard=shard)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        compute = None if batch.ray is None else on_ray(batch.ray, images, listener=listener)
        result = predict_folder(run, images, out=batch.out, settings=settings, listener=listener, compute=compute)
    _say(result)
    if result.images and result.refused == result.images:
        raise typer.Exit(BAD_INPUT)


def _say(result: BatchResult) -> None:
    refused = f", {result.refused} of them refused" if result.refused else ""
    kept = result.images - result.computed
    now = f" ({kept} found from before)" if result.computed and kept else ""
    print_result(f"{result.images} images{refused}{now} in {result.out}")
