"""Batch prediction: a table with a row for each image of a folder of any size, in bounded memory, resumable whenever it was killed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from headstart.batch.listing import read_listing, write_listing
from headstart.batch.output import form_for
from headstart.batch.parts import Kept, PartsFolder, bodies, check_same, folder_of, read_json, record_of
from headstart.batch.work import PART, Part, Work
from headstart.data.shards import Shard
from headstart.errors import HeadstartError, Interrupted, ParameterError
from headstart.files import file_digest
from headstart.progress import Listener, Progress
from headstart.run import Run, load

_SAY_EVERY = 300.0  # seconds between two lines in a log

Tasks = Iterator[tuple[int, list[str]]]
"""The parts to be made: the number of each, and the names of its images."""

Compute = Callable[[Work, Run, Tasks, Progress], Iterator[Part]]
"""Makes parts, in any order."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What can be asked of a batch job.

    Attributes:
        top: how many classes to name for each image, the most probable first.
        accuracy: answer only where the model is right that often; see `Run.threshold_for`.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        resume: go on with a job that was begun; where there is none, begin it.
        shard: make only this part of the table; see `merge`.
        part: images in a part, which is what a killed job loses at most.
    """

    top: int = 1
    accuracy: float | None = None
    engine: str = "auto"
    resume: bool = False
    shard: Shard | None = None
    part: int = PART

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ParameterError(f"--top must be at least 1, got {self.top}.")
        if self.part not in [1 << k for k in range(17)]:
            raise ParameterError(f"the images in a part must be a power of two up to 65536, got {self.part}.")


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What came of a batch job.

    Attributes:
        out: the table.
        images: its rows.
        refused: how many of them are images that could not be read.
        computed: how many were predicted now, rather than found from an earlier start of the job.
        seconds: how long it took now.
    """

    out: Path
    images: int
    refused: int
    computed: int
    seconds: float


def predict_folder(
    run: str | Path,
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    settings: BatchSettings | None = None,
    listener: Listener | None = None,
    compute: Compute | None = None,
) -> BatchResult:
    """Predict all images of files and folders into a table, and keep what is done in parts until it is whole.

    Beside the table a file ``OUT.job.json`` says how it came about. Until the table is whole, its parts are in the folder ``OUT.parts``.

    Args:
        run: the run folder.
        sources: files, and folders that are searched at any depth.
        out: the table; ``.parquet``, ``.csv`` or ``.jsonl``.
        settings: see `BatchSettings`.
        listener: told of stages and progress.
        compute: who makes the parts; this process by default. See `headstart.batch.on_ray`.

    Raises:
        ParameterError: `out` cannot be written, is there already, or belongs to another job.
        DataError: a source that does not exist, or has no images.
        RunError: the run cannot be opened.
        Interrupted: Ctrl-C; what was finished is kept.
        HeadstartError: `compute` left out images.
    """
    out, run, begun = Path(out), Path(run), time.perf_counter()
    settings, listener = settings or BatchSettings(), listener or Listener()
    opened = load(run, engine=settings.engine)
    top = min(settings.top, len(opened.classes))
    form = form_for(out, top=top, multilabel=opened.multilabel)
    least = None if settings.accuracy is None else opened.threshold_for(settings.accuracy)
    work = Work(run=run, digest=opened.manifest.digest, engine=settings.engine, top=top, least=least, form=form)
    asked = _asked(work, sources, settings)
    if out.exists() and (done := _finished(out, asked, resume=settings.resume)):
        return done
    _check_place(out)
    folder = PartsFolder(folder_of(out), asked)
    try:
        return _work_in(folder, out, work, opened, asked, sources, settings, listener, compute or _here, begun)
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted. What was finished is kept in {folder.path}: add --resume to go on from there.") from None
    finally:
        folder.close()


def _asked(work: Work, sources: Sequence[str | Path], settings: BatchSettings) -> dict[str, Any]:
    """What makes two jobs the same."""
    return {
        "protocol": 1,
        "run": work.digest,
        "images of": [str(source).encode("utf-8", "backslashreplace").decode() for source in sources],
        "--top": work.top,
        "least confidence": work.least,
        "--shard": None if settings.shard is None else str(settings.shard),
        "form": work.form.name,
        "images in a part": settings.part,
    }


def _finished(out: Path, asked: dict[str, Any], *, resume: bool) -> BatchResult | None:
    """The result of a job that is done already; None where its folder is still there, so that it was killed in its last moment."""
    if not resume:
        raise ParameterError(f"{out} is there already. Remove it, or give another --out.")
    record = read_json(record_of(out))
    if record is None:
        if folder_of(out).is_dir():
            return None
        raise ParameterError(f"{out} is there already, and nothing says of which job. Remove it, or give another --out.")
    check_same(out, record.get("asked"), asked)
    shutil.rmtree(folder_of(out), ignore_errors=True)  # what is left of it, if the job was killed while removing it
    return BatchResult(out=out, images=record["images"], refused=record["refused"], computed=0, seconds=0.0)


def _check_place(out: Path) -> None:
    if out.is_dir():
        raise ParameterError(f"{out} cannot be written: it is a folder. Give the name of a file.")
    if not out.absolute().parent.is_dir():
        raise ParameterError(f"{out} cannot be written: there is no folder {out.absolute().parent}.")


def _work_in(
    folder: PartsFolder,
    out: Path,
    work: Work,
    run: Run,
    asked: dict[str, Any],
    sources: Sequence[str | Path],
    settings: BatchSettings,
    listener: Listener,
    compute: Compute,
    begun: float,
) -> BatchResult:
    listener.stage("Listing the images")
    listed = folder.begin(resume=settings.resume, listed=lambda file: write_listing(sources, file))
    for note in listed.notes:
        listener.say(note)
    kept, damaged = folder.whole()
    if damaged:
        listener.warn(f"{damaged} finished parts in {folder.path} were damaged and are made again.")
    mine = [index for index in range(-(-listed.images // settings.part)) if _is_mine(index, settings.shard)]
    total = sum(min(settings.part, listed.images - index * settings.part) for index in mine)
    found = sum(part.rows for part in kept.values())
    listener.stage(f"Predicting {total} images" + (f", of which {found} are done" if found else ""))
    telling = _Telling(listener, found, total)
    tasks = _tasks(folder.listing, settings, kept)
    for part in compute(work, run, tasks, telling.within):
        kept[part.index] = folder.keep(part)
        telling.made(part.rows)
    images, refused = (sum(getattr(part, name) for part in kept.values()) for name in ("rows", "refused"))
    if images != total:
        raise HeadstartError(f"{images} of {total} images have a row. Nothing is lost: add --resume to make the others.")
    listener.stage(f"Writing {out.name}")
    work.form.join(bodies(kept), folder.joined)
    record = {"asked": asked, "listing": listed.digest, "listed": listed.images, "images": images, "refused": refused}
    folder.finish(out, record | {"sha256": file_digest(folder.joined)})
    return BatchResult(out=out, images=images, refused=refused, computed=images - found, seconds=time.perf_counter() - begun)


def _is_mine(index: int, shard: Shard | None) -> bool:
    return shard is None or index % shard.count == shard.index - 1


def _tasks(listing: Path, settings: BatchSettings, kept: dict[int, Kept]) -> Tasks:
    """The parts of this shard that are not there yet."""
    done = frozenset(kept)
    names = read_listing(listing)
    index = 0
    while some := list(islice(names, settings.part)):
        if _is_mine(index, settings.shard) and index not in done:
            yield index, some
        index += 1


def _here(work: Work, run: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
    """Make the parts in this process, one after the other."""
    for index, names in tasks:
        yield work.do(run, index, names, progress=progress)


class _Telling:
    """Tells a listener of images where parts are reported, and now and then with a line, since a log shows no bar."""

    def __init__(self, listener: Listener, done: int, total: int) -> None:
        self._listener, self._done, self._total = listener, done, total
        self._first, self._begun = done, time.monotonic()
        self._said = self._begun

    def within(self, done: int, _: int) -> None:
        """So many images of the part at hand are done."""
        self._listener.progress(self._done + done, self._total)

    def made(self, rows: int) -> None:
        """A part of so many images is kept."""
        self._done += rows
        self._listener.progress(self._done, self._total)
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY:
            rate = (self._done - self._first) / (now - self._begun)
            self._listener.say(f"{self._done} of {self._total} images, {rate:.0f} a second")
            self._said = now
