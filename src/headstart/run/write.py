"""Writing a run folder: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.backbones.stage_maps import graph_on_maps
from headstart.errors import RunError
from headstart.files import file_digest, folder_beside, lock, move_files
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.windows import Windows, through_windows
from headstart.run.manifest import MANIFEST, MODEL, Manifest, is_run, plain, read_manifest, write_entries
from headstart.run.run import EVALUATION, REFERENCE, SPLIT, Run
from headstart.run.uses import USES
from headstart.tasks import FEATURES, task_named

if TYPE_CHECKING:
    import onnx


_PART = ".part"  # ends the names of folders that are being written
_LEFT_ALONE = 3600.0  # seconds
_ATTEMPTS = 10  # other processes may write to the same place
_RESERVED: dict[Path, bool] = {}
"""The run folders that this process has taken, and whether it made them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RunContents:
    """Everything that goes into a run folder but its pages: `reference` and `evaluation` become `Run.reference` and `Run.tested`.

    The manifest has no digests of files yet, and names the outputs of the fitted `model`; `split` lists all inputs as CSV. `maps` are the
    layers whose maps the model takes, as `graph_on_maps` has them. With `windows`, the outputs are of images that are seen through such,
    and the model's `shape` is that of the map of one.
    """

    manifest: Manifest
    backbone: Backbone
    model: Any
    reference: Mapping[str, npt.NDArray[Any]]
    evaluation: Mapping[str, npt.NDArray[Any]]
    split: str
    maps: tuple[str, ...] = ()
    windows: Windows | None = None


def check_target(path: Path) -> None:
    """Refuse to write a run where it would destroy something, or where nothing can be written: RunError. Nothing is changed.

    Only an empty folder or an earlier run may be there. A folder that another process replaces meanwhile is looked at again.
    """
    path = _real(path)
    for attempt in range(_ATTEMPTS):
        seen = _identity(path)
        try:
            _check_target(path)
            return
        except RunError:
            if _identity(path) == seen or attempt == _ATTEMPTS - 1:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from another that took its place meanwhile."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _check_target(path: Path) -> None:
    try:
        entries = [entry.name for entry in path.iterdir() if not _is_dross(entry.name)] if path.is_dir() else []
        if entries:
            _check_earlier_run(path, entries)
        elif path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; it is left as it is. Choose another --out.")
        above = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise RunError(f"The run cannot be written to {path}: {error.strerror or error}. Choose another --out.") from None
    if not above.is_dir():
        raise RunError(f"The run cannot be written to {path}: {above} is a file. Choose another --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"The run cannot be written to {path}: no permission to write to {above}. Choose another --out.")


def _real(path: Path) -> Path:
    """The folder that is meant: through links, and with a name of its own even for ``.``."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle, or a home folder that is unknown
        raise RunError(f"The run cannot be written to {str(path)!r}: {error}. Choose another --out.") from None


def _is_dross(name: str) -> bool:
    """Files that file managers put everywhere, and what a killed process left of a run."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini") or (name.startswith(".") and name.endswith(_PART))


def _check_earlier_run(path: Path, entries: Sequence[str]) -> None:
    """Only a folder that holds a run and nothing else may be replaced."""
    left = "it is left as it is. Choose another --out, or empty it first."
    if not is_run(path):
        raise RunError(f"{path} is a folder that is not an earlier run; {left}")
    try:
        files = read_manifest(path).files
    except RunError as error:
        raise RunError(f"{path} is not a whole earlier run; {left} ({error})") from None
    own = sorted(set(entries) - {MANIFEST, USES, *files})
    if own:
        raise RunError(f"{path} is an earlier run, but it also holds {', '.join(own[:3])}, which Headstart did not write; {left}")


@contextmanager
def reserved(path: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Take the folder of a run from the beginning of the fit that is to write it: it is there, and another fit is refused it (RunError).

    With `numbered`, the folder is the first of NAME, NAME-2 and so on that is free. It is removed at the end if nothing was written to it.
    Of several processes that train together, the first one takes it.
    """
    above = [folder for folder in _real(path).parents if not folder.exists()]
    count, target, first = 1, path, os.environ.get("RANK", "0") == "0"
    while numbered and not _is_free(target, take=first):
        count += 1
        target = path.with_name(f"{path.name}-{count}")
    real = _real(target)
    if not first:
        yield target
        return
    check_target(target)
    try:
        made = numbered or not real.exists()
        real.mkdir(parents=True, exist_ok=True)
        descriptor = lock(real)
    except BlockingIOError:
        raise RunError(f"Another fit is writing the run {target}. Wait for it, or choose another --out.") from None
    except OSError as error:
        raise RunError(f"The run cannot be written to {real}: {error.strerror or error}. Choose another --out.") from None
    _RESERVED[real] = made
    try:
        yield target
    finally:
        del _RESERVED[real]
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # it holds the run
            for folder in (real, *above) if made else ():
                folder.rmdir()


def _is_free(target: Path, *, take: bool) -> bool:
    """Whether nothing has this name, nor is a training of it to be resumed; with `take`, an empty folder has it from now on."""
    if target.with_name(target.name + ".training").exists() or (not take and os.path.lexists(target)):
        return False
    try:
        if take:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise RunError(f"The run cannot be written to {target}: {error.strerror or error}. Choose another --out.") from None
    return True


@contextmanager
def writing_run(path: Path) -> Iterator[Path]:
    """A folder to write a run into; it takes its place at the end, replacing an earlier run only once the new one is complete."""
    path = _real(path)
    check_target(path)
    inside = path.is_dir() and not (path / MANIFEST).is_file() and not _RESERVED.get(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path)
        # An empty folder is filled and not replaced: it may be a mounted one, or the one that the user stands in.
        place = path if inside else path.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{path.name}-", suffix=_PART, ignore_cleanup_errors=True) as temporary:
            new = Path(temporary) / "run"
            new.mkdir()
            (Path(temporary) / "old").mkdir()
            yield new
            if inside:
                move_files(new, path, last=MANIFEST)  # without its manifest, which comes last, it is no run
            else:
                _put_in_place(new, path, old=Path(temporary) / "old")
    except OSError as error:
        raise RunError(f"The run cannot be written to {path}: {error.strerror or error}. Choose another --out.") from None


def _put_in_place(new: Path, path: Path, *, old: Path) -> None:
    """Rename the old run away and the new one to its place; whatever happens between the two, one of them is there afterwards."""
    for attempt in range(_ATTEMPTS):
        try:
            if path.exists() and (any(path.iterdir()) or os.name == "nt"):
                path.rename(old / str(attempt))
            new.rename(path)
            return
        except BaseException as error:
            _put_back(old / str(attempt), path)
            another = isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)  # process was quicker
            if not another or attempt == _ATTEMPTS - 1:
                raise


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        old.rename(path)


def _tidy(path: Path) -> None:
    """Remove what killed processes left beside `path` an hour ago or more; writing a run takes seconds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{_PART}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < _LEFT_ALONE:
                continue
            for old in sorted(left.glob("old/*"), reverse=True):
                if is_run(old):
                    _put_back(old, path)
            shutil.rmtree(left)


def write_files(folder: Path, contents: RunContents) -> Run:
    """Write the files of a run into an empty folder, and open it; its pages come after that (`seal`)."""
    task = task_named(contents.manifest.task)
    if task.in_graph:
        (folder / MODEL).write_bytes(run_graph(contents).SerializeToString())
    else:
        task.write_model(folder, contents.model)
    for name, content in contents.manifest.preprocessing.files().items():
        (folder / name).write_bytes(content)
    settings, arrays = contents.model.state()
    described = json.dumps(plain(settings), allow_nan=False)
    _save(folder / "head.safetensors", arrays, {"head": described})
    _save(folder / REFERENCE, contents.reference)
    _save(folder / EVALUATION, contents.evaluation)
    (folder / SPLIT).write_bytes(contents.split.encode("utf-8", "replace"))
    return seal(folder, contents.manifest)


def _save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: dict[str, str] | None = None) -> None:
    """Write arrays as safetensors, without a copy of them."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def seal(folder: Path, manifest: Manifest) -> Run:
    """Write the manifest with the digests of all files that are in the folder, and open the run; those it has are taken as they are."""
    files = {file.name: manifest.files.get(file.name) or file_digest(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    return Run(folder, replace(manifest, files=files).write(folder / MANIFEST))


def replace_pages(path: Path, pages: Mapping[str, str]) -> None:
    """Write pages of a run (`PAGES`) anew, with their digests in the manifest; RunError where the folder cannot be written.

    Everything is written beside the old files first; they then take their places one after the other, the manifest last. A process that
    is killed between two of them leaves a run whose page must be written again, and `load` says so.
    """
    read_manifest(path)
    try:
        entries = json.loads((path / MANIFEST).read_text(encoding="utf-8"))  # as it is, whatever its protocol
        with folder_beside(path / MANIFEST) as beside:
            for name, text in pages.items():
                (beside / name).write_bytes(text.encode("utf-8", errors="replace"))  # as `write_report` does
            digests = {name: file_digest(beside / name) for name in pages}
            write_entries(beside / MANIFEST, {**entries, "files": {**entries["files"], **digests}})
            move_files(beside, path, last=MANIFEST)
    except OSError as error:
        raise RunError(f"The pages of the run {path} cannot be written: {error.strerror or error}.") from None


def run_graph(contents: RunContents) -> onnx.ModelProto:
    """Backbone and model in one graph: what the preprocessing gives of the inputs in; features and the outputs of the task out."""
    manifest, backbone, windows = contents.manifest, contents.backbone, contents.windows
    task = task_named(manifest.task)

    def write(graph: OnnxGraph, maps: Mapping[str, str]) -> None:
        task.write_onnx(graph, contents.model, FEATURES, manifest.state, maps=maps)

    graph = graph_on_maps(backbone, contents.maps, write)
    outputs: dict[str, Any] = {output.name: (np.float32, ("N", *output.shape)) for output in manifest.outputs}
    outputs = {FEATURES: (np.float32, ("N", backbone.dim)), **outputs}
    if windows is not None:
        graph = through_windows(graph, windows, {name: contents.model.shape for name in outputs if name != FEATURES}, features=backbone.dim)
    return graph.model(
        inputs=manifest.preprocessing.inputs,
        outputs=outputs,
        metadata={
            "task": json.dumps(manifest.task),
            **{name: json.dumps(value, ensure_ascii=False) for name, value in plain(manifest.state).items()},
            "preprocessing": json.dumps(manifest.preprocessing.to_dict()),
        },
    )
