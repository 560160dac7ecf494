"""Batch prediction: a table with a row for each image of a folder of any size, in bounded memory, resumable after a kill at any moment.

A job is made of parts of some hundred images. It can be split into shards for several machines, whose tables `merge` joins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import Any

from headstart.batch.folder import Part, PartsFolder, check_same, read_json, read_listing, record_of, write_json
from headstart.batch.tables import FileFormat, TableFormat, format_for, table_for
from headstart.data.inputs import entries_of, input_of
from headstart.data.listing import tell_passed
from headstart.errors import DataError, HeadstartError, Interrupted, ParameterError, RunError, setting
from headstart.files import check_writable, file_digest, replacing
from headstart.progress import Listener, Progress, Reworded
from headstart.reliability import Shift
from headstart.run import Run, load
from headstart.settings import ListOptions
from headstart.settings.batch import BatchSettings, Shard
from headstart.text import printable, unread

_LINE_SECONDS = 300.0  # between two lines of progress: a log has no bar

Tasks = Iterator[tuple[int, list[str]]]
"""The parts to be made: the number of each, and the names of its images."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcome of a batch job: the table, its rows, and how many of them could not be read or were predicted now, not before.

    `shift` tells whether the images come from another world than the training images.
    """

    out: Path
    images: int
    refused: int
    computed: int
    shift: Shift


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with every image of a job, by whichever process, so that a part has the same bytes wherever it is made.

    `digest` is that of the run's manifest, `least` as of `Run.least`.
    """

    run: Path
    digest: str
    engine: str
    top: int
    least: float | None
    table: FileFormat

    def open(self) -> Run:
        """Open the run; RunError if that cannot be done, or if it is not the run of the job."""
        run = load(self.run, engine=self.engine)
        if run.manifest.digest != self.digest:
            raise RunError(f"{self.run}: is another run than the one that this job began with. Give all machines the same run.")
        return run

    def do(self, run: Run, index: int, names: Sequence[str], *, progress: Progress | None = None) -> Part:
        """Predict the inputs of one part, by their entries in the listing."""
        found = [input_of(run.modality, name) for name in names]
        predictions = run.predict([one for one, _ in found], progress=progress, warn=lambda message: None)
        rows = run.records([name for _, name in found], predictions, top=self.top, least=self.least)
        refusals = tuple(map(str, predictions.refused[:5]))
        return Part(index, len(rows), len(predictions.refused), self.table.part(rows), refusals, predictions.novel)


Compute = Callable[[Work, Run, Tasks, Progress], Iterator[Part]]
"""Makes parts, in any order."""


def predict_folder(
    run: str | Path,
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    settings: BatchSettings | None = None,
    listener: Listener | None = None,
    compute: Compute | None = None,
    lists: ListOptions | None = None,
) -> BatchResult:
    """Predict all images of files and folders into a table, and store finished parts until it is complete.

    Beside the table a file ``OUT.job.json`` records how it was made. Until the table is complete, its parts are in ``OUT.parts``.

    Args:
        run: the run folder.
        sources: files, and folders that are searched at any depth.
        out: the table; ``.parquet``, ``.csv`` or ``.jsonl``.
        settings: of the job.
        listener: is notified of stages and progress.
        compute: who makes the parts; this process by default. See `headstart.batch.on_ray`.
        lists: of texts, the columns of lists, where they are not recognised.

    Raises:
        ParameterError: `out` cannot be written, already exists, or belongs to another job; a confidence where the task has none.
        DataError: a source that does not exist, or has no images.
        Interrupted: Ctrl-C; finished parts stay.
    """
    out, run = Path(out), Path(run)
    settings = settings or BatchSettings()
    opened = load(run, engine=settings.engine)
    least = opened.least(confidence=settings.confidence, accuracy=settings.accuracy)
    top = min(settings.top, max([len(one.classes) for one in opened.class_outputs], default=1))
    table = format_for(out, opened.columns(top=top), opened.task.results())
    if settings.shard is not None and not isinstance(table, TableFormat):
        raise ParameterError(
            f"{setting('shard', settings.shard)} makes a part of a table, and {out.name} is a list: use .parquet or .jsonl."
        )
    work = Work(run=run, digest=opened.manifest.digest, engine=settings.engine, top=top, least=least, table=table)
    listener = Reworded(listener or Listener(), opened.modality.noun, opened.modality.article)
    compute = compute or _here
    job = _Job(
        out=out, work=work, run=opened, sources=sources, settings=settings, listener=listener, compute=compute, lists=lists or ListOptions()
    )
    return job.carry_out()


@dataclass(frozen=True, kw_only=True)
class _Job:
    out: Path
    work: Work
    run: Run
    sources: Sequence[str | Path]
    settings: BatchSettings
    listener: Listener
    compute: Compute
    lists: ListOptions

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two jobs the same."""
        return {
            "protocol": 1,
            "run": self.work.digest,
            "images of": [printable(str(source)) for source in self.sources],
            "--top": self.work.top,
            "least confidence": self.work.least,
            "--shard": None if self.settings.shard is None else str(self.settings.shard),
            "form": self.work.table.name,
            "images in a part": self.settings.part,
            "--column": dict(self.lists.columns or {}) or None,
        }

    def carry_out(self) -> BatchResult:
        """Start or resume the job; where it is done already, its result."""
        folder = PartsFolder(self.out, self.identity)
        if self.out.exists() and (done := self._finished(folder)):
            return done
        if not self.out.exists():  # else it is that of this job
            check_writable(self.out)
        if (record := record_of(self.out)).exists() and "asked" not in (read_json(record) or {}):
            raise ParameterError(f"{record} would record this job, and Headstart did not write it. Give another --out, or move it away.")
        try:
            return self._carry_out_in(folder)
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted. Finished parts are in {folder.path}: add --resume to continue from there.") from None
        finally:
            folder.close()

    def _finished(self, folder: PartsFolder) -> BatchResult | None:
        """The result of a job whose table exists; None where its folder exists still, as it was killed in its last moment."""
        if not self.settings.resume:
            raise ParameterError(f"{self.out} already exists. Remove it, or give another --out.")
        record = read_json(record_of(self.out))
        if record is None:
            if folder.path.is_dir():
                return None
            raise ParameterError(f"{self.out} already exists, and no record says of which job. Remove it, or give another --out.")
        check_same(self.out, record.get("asked"), self.identity)
        shutil.rmtree(folder.path, ignore_errors=True)  # left over if the job was killed while removing it
        return _result(self.run, self.out, record)

    def _carry_out_in(self, folder: PartsFolder) -> BatchResult:
        listener, size = self.listener, self.settings.part
        listener.stage("Listing the images")
        listed = folder.begin(
            self.sources, resume=self.settings.resume, entries=partial(entries_of, self.run.modality, self.sources, self.lists)
        )
        tell_passed(listed.notes, listener)
        stored, damaged = folder.stored()
        if damaged:
            listener.warn(f"{damaged} finished parts in {folder.path} were damaged and are made again.")
        mine = [index for index in range(-(-listed.images // size)) if self._is_mine(index)]
        total = sum(min(size, listed.images - index * size) for index in mine)
        found = sum(part.rows for part in stored.values())
        listener.stage(f"Predicting {total} images" + (f", of which {found} are done" if found else ""))
        done, begun = found, time.monotonic()
        said, refusals = begun, list[str]()

        def within_part(so_far: int, _: int) -> None:
            listener.progress(done + so_far, total)

        for part in self.compute(self.work, self.run, self._tasks(folder.listing, frozenset(stored)), within_part):
            stored[part.index] = folder.store(part)
            done += part.rows
            refusals += part.refusals[: 5 - len(refusals)]
            listener.progress(done, total)
            if (now := time.monotonic()) - said >= _LINE_SECONDS:
                listener.say(f"{done} of {total} images, {(done - found) / (now - begun):.0f} a second")
                said = now
        images, refused = (sum(getattr(part, name) for part in stored.values()) for name in ("rows", "refused"))
        if images != total:
            raise HeadstartError(f"{images} of {total} images have a row. Nothing is lost: add --resume to make the others.")
        listener.stage(f"Writing {self.out.name}")
        self.work.table.join((stored[index].file.read_bytes() for index in sorted(stored)), folder.joined)
        counts = {"listing": listed.digest, "listed": listed.images, "images": images, "refused": refused, "passed over": listed.notes}
        counts["unlike"] = _total(part.novel for part in stored.values())
        folder.finish(counts)
        if refused:
            listener.left_out(unread(refusals, images, "have a row with the reason", count=refused))
        return _result(self.run, self.out, counts, computed=images - found)

    def _is_mine(self, index: int) -> bool:
        shard = self.settings.shard
        return shard is None or index % shard.count == shard.index - 1

    def _tasks(self, listing: Path, done: frozenset[int]) -> Tasks:
        """The parts of this shard that are not stored yet."""
        names = read_listing(listing)
        for index in count():
            if not (some := list(islice(names, self.settings.part))):
                return
            if self._is_mine(index) and index not in done:
                yield index, some


def _here(work: Work, run: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
    """Make the parts in this process, one after the other."""
    for index, names in tasks:
        yield work.do(run, index, names, progress=progress)


def _total(counts: Iterable[int | None]) -> int | None:
    """The sum; None where one of them is not known."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _result(run: Run, out: Path, record: Mapping[str, Any], *, computed: int = 0) -> BatchResult:
    """What the record of a finished job says; earlier versions did not count the images unlike the training images."""
    images, refused = record["images"], record["refused"]
    return BatchResult(out=out, images=images, refused=refused, computed=computed, shift=run.shift(record.get("unlike"), images - refused))


def merge(run: str | Path, tables: Sequence[str | Path], *, out: str | Path) -> BatchResult:
    """Join the tables of all shards of a job, each with its ``.job.json`` beside it, into the very table that one job would have written.

    Raises:
        ParameterError: `out` already exists, cannot be written, or is in another format.
        DataError: a shard is missing, passed twice, damaged, or of another job, run or folder.
    """
    out, paths = Path(out), [Path(table) for table in tables]
    opened = load(run)
    if out.exists():
        raise ParameterError(f"{out} already exists. Remove it, or give another --out.")
    records = [_checked_record(table) for table in paths]
    first = records[0] if records else {"asked": {}}
    if first["asked"].get("run") != opened.manifest.digest:
        raise DataError(f"{tables[0] if tables else 'no table'}: was not made with the run {run}. Give the tables of its shards.")
    ordered = _in_order(paths, records)
    table = table_for(out, opened.columns(top=first["asked"]["--top"]))
    if table.name != first["asked"]["form"]:
        form = first["asked"]["form"]
        raise ParameterError(f"--out {out} asks for {table.name}, and the shards are {form}. Give it the same suffix as theirs.")
    images, refused = (sum(record[key] for record in records) for key in ("images", "refused"))
    if images != first["listed"]:
        raise DataError(f"the shards have {images} rows together, and {first['listed']} images were listed. Make them again.")
    with replacing(out) as partial:
        table.join(_by_turns(table, ordered, rows=first["asked"]["images in a part"]), partial)
        changed = {"asked": {**first["asked"], "--shard": None}, "images": images, "refused": refused, "sha256": file_digest(partial)}
        changed["unlike"] = _total(record.get("unlike") for record in records)
    write_json(record_of(out), first | changed)
    return _result(opened, out, changed)


def _checked_record(table: Path) -> dict[str, Any]:
    """The record beside a table of a shard, after a check that the table has not changed since."""
    if not table.is_file():
        raise DataError(f"{table}: no such file. Give the tables that `headstart predict --batch --shard` wrote.")
    record = read_json(record_of(table))
    if record is None or not isinstance(record.get("asked"), dict):
        raise DataError(f"{table}: there is no {record_of(table).name} beside it, which records how it was made. Copy it along.")
    if record.get("sha256") != file_digest(table):
        raise DataError(f"{table}: has been changed since it was written (its SHA-256 differs). Copy it again, or make it again.")
    if record["asked"].get("--shard") is None:
        raise DataError(f"{table}: is a whole table and not that of a shard.")
    return record


def _in_order(tables: list[Path], records: list[dict[str, Any]]) -> list[Path]:
    """The tables by the number of their shard."""
    first = records[0]
    for table, record in zip(tables, records, strict=True):
        if any(record["asked"].get(key) != value for key, value in first["asked"].items() if key not in ("--shard", "images of")):
            raise DataError(f"{table} and {tables[0]} are of different jobs. Make all shards with the same run and options.")
        if (record["listing"], record["listed"]) != (first["listing"], first["listed"]):
            raise DataError(
                f"{table} and {tables[0]} saw different images ({record['listed']} and {first['listed']}): the folder was not the same. "
                "Make the shards again from the same folder."
            )
    shards = [Shard.parse(record["asked"]["--shard"]) for record in records]
    count = shards[0].count
    where = {shard.index: table for shard, table in zip(shards, tables, strict=True) if shard.count == count}
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in where]
    if missing:
        more = " and others" if len(missing) > 5 else ""
        raise DataError(f"the table of shard {', '.join(missing[:5])} is missing{more}. Give all {count}.")
    if len(tables) > count:
        raise DataError(f"{len(tables)} tables are given for {count} shards. Give each once.")
    return [where[index] for index in range(1, count + 1)]


def _by_turns(table: TableFormat, shards: list[Path], *, rows: int) -> Iterator[bytes]:
    """The parts in their order: of n shards, shard i has every n-th part."""
    for parts in zip_longest(*(table.parts(shard, rows=rows) for shard in shards)):
        yield from filter(None, parts)
