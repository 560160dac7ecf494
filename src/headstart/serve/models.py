"""The runs of a service, by name: opened, watched, and replaced while requests go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import HeadstartError, ParameterError, RunError, nearest
from headstart.run import MODEL, PAGES, Run, load
from headstart.run.run import MANIFEST, REFERENCE, SPLIT
from headstart.serve.gather import Gather
from headstart.serve.refusals import Refusal

if TYPE_CHECKING:
    from headstart.explanation import HeatMaps

_log = logging.getLogger(__name__)

REPORT, CARD = PAGES
_TRY_AGAIN_SECONDS = 2.0  # a run that is being copied is whole a little later
_LARGEST_PAGE = 64 << 20

_Signature = tuple[tuple[str, int, int, int], ...]


class Model:
    """One opened run.

    Attributes:
        name: under which clients know it.
        run: the run.
        gather: runs images through its network.
        pages: its report and model card as they were when it was opened, those that there are.
    """

    def __init__(self, name: str, path: Path, *, engine: str, on_burst: Callable[[str, int], None] | None = None) -> None:
        before = signature_of(path)
        self.name, self.run, self._engine_kind = name, load(path, engine=engine), engine
        self.pages = {page: self._page(page) for page in (REPORT, CARD) if page in self.run.manifest.files}
        size = self.run.preprocessing.size
        # Everything is read now and not at the first request: what is read later may not be what was checked.
        next(iter(self.run.engine.run(iter([np.zeros((size, size, 3), np.uint8)]))))
        self.nearest_names = tuple(name.replace("\\", "/").rpartition("/")[2] for name in self.run.training_names)
        self.nearest_labels = _training_labels(self.run)
        _ = self.run.trust
        self.signature = signature_of(path)
        if self.signature != before:
            raise RunError(f"{path}: is being changed. Try again when it is complete.")
        self.gather = Gather(self.run.engine, on_burst=None if on_burst is None else lambda count: on_burst(name, count))
        self.users = 0

    def _page(self, name: str) -> bytes:
        with (self.run.path / name).open("rb") as file:
            return file.read(_LARGEST_PAGE)

    @cached_property
    def heat_maps(self) -> HeatMaps:
        """Opened at the first use. Not for several threads at once."""
        from headstart.explanation import HeatMaps

        return HeatMaps.of(self.run, method="fast", engine=self._engine_kind)

    def facts(self) -> dict[str, Any]:
        """What is told about the model, without anything of the machine that it was made on."""
        manifest, metrics = self.run.manifest, self.run.metrics
        trust = self.run.trust
        sets = None if trust is None else trust.sets
        provenance = manifest.provenance
        return {
            "name": self.name,
            "title": manifest.title or self.name,
            "classes": list(self.run.classes),
            "multilabel": self.run.multilabel,
            "accuracy": metrics.get("test_accuracy"),
            "accuracy_interval": metrics.get("test_accuracy_interval"),
            "test_images": metrics.get("test_images"),
            "coverage": None if sets is None else sets.coverage,
            "created": provenance.get("created"),
            "backbone": manifest.backbone.name,
            "size": self.run.preprocessing.size,
            "digest": manifest.digest,
            "report": REPORT in self.pages,
            "card": CARD in self.pages,
        }


class Models:
    """Runs by name.

    Args:
        runs: their folders; each is known by the name of its folder.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        on_burst: called with the name of a model and the number of images that went through it in one go.

    Raises:
        ParameterError: no runs, or two of the same name.
        RunError: one that cannot be opened.
    """

    def __init__(self, runs: Sequence[Path], *, engine: str = "auto", on_burst: Callable[[str, int], None] | None = None) -> None:
        self._paths = named(runs)
        self._engine, self._on_burst = engine, on_burst
        self._lock = threading.Lock()
        self._tried: dict[str, tuple[float, str]] = {}
        self._models = {name: self._open(name) for name in self._paths}

    def _open(self, name: str) -> Model:
        return Model(name, self._paths[name], engine=self._engine, on_burst=self._on_burst)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were given; the first is the one that is asked where a request names none."""
        return tuple(self._paths)

    def facts(self) -> list[dict[str, Any]]:
        """Of all models, as `Model.facts` has them."""
        return [model.facts() for model in self._models.values()]

    @contextmanager
    def use(self, name: str | None = None) -> Iterator[Model]:
        """The model of a name, which stays open until it is left, whatever happens to its folder.

        Raises:
            Refusal: 404, there is none of that name.
        """
        with self._lock:
            if name is not None and name not in self._models:
                known = ", ".join(self.names)
                raise Refusal(
                    404, "unknown_model", f"There is no model {name[:100]!r}.{nearest(name[:100], self.names)} There are: {known}."
                )
            model = self._models[self.names[0] if name is None else name]
            model.users += 1
        try:
            yield model
        finally:
            with self._lock:
                model.users -= 1
                done = model.users == 0 and self._models.get(model.name) is not model
            if done:
                threading.Thread(target=model.gather.close, daemon=True).start()  # never waited for by a request

    def reload_changed(self) -> list[str]:
        """Open those runs again whose files have changed, and return their names. Takes seconds; for a thread of its own.

        A run that cannot be opened, because it is half copied or damaged, is left as it was, and tried again later.
        """
        changed = []
        for name, path in self._paths.items():
            old = self._models[name]
            last, said = self._tried.get(name, (0.0, ""))
            if signature_of(path) == old.signature or time.monotonic() - last < _TRY_AGAIN_SECONDS:
                continue
            try:
                new = self._open(name)
            except (HeadstartError, OSError) as error:
                self._tried[name] = (time.monotonic(), str(error))
                if str(error) != said:
                    _log.warning("reload failed, the old model goes on", extra={"model": name, "because": str(error)})
                continue
            self._tried.pop(name, None)
            with self._lock:
                self._models[name] = new
                unused = old.users == 0
            if unused:
                old.gather.close()
            changed.append(name)
            _log.info("reloaded", extra={"model": name, "digest": new.run.manifest.digest})
        return changed

    def close(self) -> None:
        """Finish what was handed in, and end the threads."""
        for model in self._models.values():
            model.gather.close()


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """The runs by the names of their folders.

    Raises:
        ParameterError: no runs, or two of the same name.
    """
    found: dict[str, Path] = {}
    for path in runs:
        whole = Path(path).absolute()
        name = whole.name or whole.resolve().name
        if name in found:
            raise ParameterError(f"Two runs are called {name!r}: {found[name]} and {path}. Rename one of the folders.")
        found[name] = Path(path)
    if not found:
        raise ParameterError("No run was given. Give the folder that `headstart fit` wrote.")
    return found


def signature_of(path: Path) -> _Signature:
    """Name, size, time and number of each file of a run, cheap to take; it changes when the run is written anew."""
    found = []
    try:
        for file in path.iterdir():
            if file.name in (MANIFEST, MODEL, REFERENCE, SPLIT, *PAGES):
                status = file.stat()
                found.append((file.name, status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError:
        return ()
    return tuple(sorted(found))


def _training_labels(run: Run) -> tuple[str, ...]:
    """The labels of the training images, in words; several are joined with ``;``."""
    targets = run.reference.get("targets")
    if targets is None:
        return ()
    if targets.ndim == 1:
        return tuple(run.classes[int(target)] for target in targets)
    return tuple(";".join(run.classes[j] for j in np.flatnonzero(row)) for row in targets)
