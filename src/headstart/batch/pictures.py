"""Predictions that are pictures, such as masks: files in a folder, named after the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from headstart.data.listing import PassedOver, inputs, tell_passed
from headstart.engine import available_cores
from headstart.errors import ParameterError, UnreadableError
from headstart.files import check_writable, writable, write_file
from headstart.modalities.image import read_image
from headstart.progress import Listener
from headstart.records import Record
from headstart.run import Run
from headstart.tasks import FileOptions
from headstart.text import unread

_AT_ONCE = 32  # inputs whose predictions are in memory


@dataclass(frozen=True, kw_only=True)
class PicturesResult:
    """What came of it: a record for each input, how many could be read, how many of them are unlike the training inputs, and the files."""

    records: tuple[Record, ...]
    predicted: int
    novel: int | None
    files: tuple[Path, ...]


def predict_pictures(
    run: Run, sources: Sequence[str | Path], *, out: Path, asked: FileOptions | None = None, listener: Listener | None = None, top: int = 1
) -> PicturesResult:
    """Predict the inputs of files and folders, and write the files of each that are `asked` for into the folder `out`.

    A file has the name of its input below the folder given, with another suffix; where two inputs differ in their suffix alone, it
    stays, so that both have one.

    Raises:
        ParameterError: the task writes no pictures; one would replace an input, or a file that Headstart did not write; two inputs would
            have the same.
        DataError: a source that does not exist, or has no images.
    """
    listener = listener or Listener()
    asked = asked or FileOptions()
    suffixes = run.task.suffixes(asked)
    if not suffixes:
        raise ParameterError(
            f"--out {out}: a folder is for pictures, and the task {run.manifest.task} predicts none. For a table add --batch, and let "
            "--out end in .parquet, .csv or .jsonl."
        )
    passed = PassedOver()
    found = [(Path(path), below) for path, below in inputs(sources, passed)]
    tell_passed(passed.notes(), listener)
    stems = picture_stems([below for _, below in found], listener)
    _check(out, [path for path, _ in found], stems, suffixes)
    records: list[Record] = []
    refused: list[UnreadableError] = []
    files: list[Path] = []
    predicted, novel = 0, None
    if len(found) > 1:
        listener.stage(f"Predicting {len(found)} images")
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-pictures") as pool:
        for start in range(0, len(found), _AT_ONCE):
            paths = [path for path, _ in found[start : start + _AT_ONCE]]
            predictions = run.predict(paths, warn=lambda message: None, progress=partial(_tell, listener, start, len(found)))
            records += run.records(paths, predictions, top=top, least=asked.least)
            refused += predictions.refused
            predicted += len(predictions)
            if predictions.novel is not None:
                novel = (novel or 0) + predictions.novel

            write = partial(_write, run, predictions, out, paths, stems[start : start + _AT_ONCE], asked)
            for some in pool.map(write, range(len(predictions))):
                files += some
    for name, data in run.task.files_of_all(asked, run.manifest.state).items() if predicted else ():
        with writable(out / name):
            check_writable(out / name)
            write_file(out / name, data, durable=False)
        files.append(out / name)
    if refused:
        listener.left_out(unread(refused, len(found), "have no prediction"))
    return PicturesResult(records=tuple(records), predicted=predicted, novel=novel, files=tuple(files))


def picture_stems(names: Sequence[str], listener: Listener | None = None) -> list[str]:
    """What the names of the pictures begin with, from names of inputs: without suffix, unless two would be the same.

    ParameterError where two have the same name.
    """
    bare = [PurePath(name).with_suffix("") for name in names]
    shared = Counter(bare)
    found = [str(stem) if shared[stem] == 1 else name for stem, name in zip(bare, names, strict=True)]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ParameterError(
            f"Two of the images are called {twice}, so that their pictures would be one. Predict them one after the other."
        )
    if listener is not None and (longer := [name for name in found if name in names]):
        listener.say(f"{len(longer)} images differ in their suffix alone: their pictures have it in the name, such as {longer[0]}.png.")
    return found


def _check(out: Path, sources: Sequence[Path], stems: Sequence[str], suffixes: Sequence[str]) -> None:
    """Refuse, before anything is predicted, files that are not to be replaced."""
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out}: is a file. Give the name of a folder for the pictures.")
    own = {path.resolve() for path in sources}
    for stem in stems:
        for suffix in suffixes:
            target = out / f"{stem}{suffix}"
            if target.resolve() in own:
                raise ParameterError(f"--out {out}: {target} is one of the images, and would be replaced. Give another folder.")
            if target.exists():
                check_writable(target)


def _tell(listener: Listener, before: int, total: int, done: int, _: int) -> None:
    listener.progress(before + done, total)


def _write(run: Run, predictions: Any, out: Path, paths: Sequence[Path], stems: Sequence[str], asked: FileOptions, row: int) -> list[Path]:
    """Write the files of one row."""
    place = int(predictions.kept[row])
    picture = partial(read_image, paths[place], levels=run.preprocessing.levels)
    found = []
    for suffix, data in run.task.files(predictions, row, picture, asked).items():
        target = out / f"{stems[place]}{suffix}"
        with writable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, data, durable=False)
        found.append(target)
    return found
