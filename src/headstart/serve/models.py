"""The runs of a service, by name: opened, watched, and replaced while requests are in progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from headstart.errors import HeadstartError, ParameterError, RunError, nearest
from headstart.modalities import IMAGE, Modality
from headstart.records import DEFAULT_KIND
from headstart.reliability import Watch
from headstart.run import MANIFEST, MODEL, PAGES, REFERENCE, SPLIT, Collected, load
from headstart.serve.intake import INTAKES, Intake
from headstart.serve.refusals import Refusal
from headstart.serve.threads import BatchingQueue
from headstart.tasks import Predictions

if TYPE_CHECKING:
    from headstart.explanation import HeatMaps

_log = logging.getLogger(__name__)

REPORT, CARD = PAGES
_RETRY_SECONDS = 2.0  # a run that is being copied is complete a little later

Array = npt.NDArray[Any]
OnBatch = Callable[[str, int], None]
_Fingerprint = tuple[tuple[str, int, int, int], ...]


class Model:
    """One opened run: `name` as clients know it, the `queue` that runs inputs through its network, and its `pages` as they were then.

    `kind` is that of its records, and `tensors` has its outputs for a single input by name. `watch` counts the inputs that it predicted;
    None where the run does not know which are unlike the training inputs. `intake` knows how requests bring its inputs.
    """

    def __init__(self, name: str, path: Path, *, engine: str, on_batch: OnBatch) -> None:
        before = fingerprint(path)
        self.name, self.run, self._engine_kind = name, load(path, engine=engine), engine
        self.pages = {page: (path / page).read_bytes() for page in PAGES if page in self.run.manifest.files}
        self.intake: Intake = INTAKES[self.run.modality.name]
        # All files are read now and not at the first request: what is read later may not be what was checked. A blank input does that.
        blank, size = self.intake.blank(self.run.preprocessing)
        collected = Collected(self.run)
        collected.add(0, next(iter(self.run.engine.run(iter([blank])))), size=size)
        found = collected.predictions()
        self.kind = self.run.records([""], found)[0].kind
        self.tensors = self.tensors_of(found)
        self.fingerprint = fingerprint(path)
        if self.fingerprint != before:
            raise RunError(f"{path}: is being changed. Try again when it is complete.")
        novelty = None if self.run.reliability is None else self.run.reliability.novelty
        self.watch = None if novelty is None else Watch(novelty.refused_share, novelty.images)
        self.queue = BatchingQueue(self.run.engine, on_batch=lambda count: on_batch(name, count))
        self.requests = 0
        self._heat_maps: dict[str, HeatMaps] = {}

    def training_image(self, index: int) -> tuple[str, str]:
        """What clients are told as the name of a training input, and its label."""
        name, label = self.run.training_image(index)
        return self.intake.training_name(name), label

    @property
    def has_heat_maps(self) -> bool:
        """Whether the evidence for its classes can be laid over an input."""
        return self.intake.heat_maps and bool(self.run.explainable)

    def tensors_of(self, predictions: Predictions, *, least: float | None = None) -> dict[str, Array | list[str]]:
        """The outputs of the network but the features, which stay here, and what the task knows beside them: all with a row an image.

        `least` is the lowest confidence of what the task names, None for its default.
        """
        return {**predictions.outputs, **self.run.task.tensors(predictions, least=least)}

    def least(self, confidence: float | None) -> float | None:
        """The lowest confidence that a request asks for; refused with 422 where the task has none."""
        try:
            return self.run.least(confidence=confidence)
        except ParameterError as error:
            raise Refusal(422, "bad_parameter", str(error)) from None

    def heat_maps(self, column: str | None = None) -> HeatMaps:
        """Of a column of labels, where there are several, by default of the first; opened at the first use. Not thread-safe."""
        from headstart.explanation import HeatMaps

        column = self.run.explained(column, "Heat maps are for").column
        if column not in self._heat_maps:
            self._heat_maps[column] = HeatMaps.of(self.run, method="fast", engine=self._engine_kind, column=column)
        return self._heat_maps[column]

    def facts(self) -> dict[str, Any]:
        """The description of the model, without anything about the machine that it was made on."""
        manifest = self.run.manifest
        return {
            "name": self.name,
            "title": manifest.title or self.name,
            **({} if self.run.modality is IMAGE else {"modality": self.run.modality.name}),
            **({} if self.kind == DEFAULT_KIND else {"kind": self.kind}),
            **self.run.task.facts(manifest.state, manifest.metrics, self.run.reliability),
            "created": manifest.provenance.get("created"),
            "backbone": manifest.backbone.name,
            "size": self.run.preprocessing.size,
            "digest": manifest.digest,
            "recent": None if self.watch is None else self.watch.to_dict(),
            "report": REPORT in self.pages,
            "card": CARD in self.pages,
        }


class Models:
    """Runs by the names of their folders; `on_batch` is called with the name of one and the number of images of a batch of its engine.

    Raises ParameterError for no runs or two of the same name, and RunError for one that cannot be opened.
    """

    def __init__(self, runs: Sequence[Path], *, engine: str = "auto", on_batch: OnBatch = lambda name, count: None) -> None:
        self._paths = named(runs)
        self._engine, self._on_batch = engine, on_batch
        self._lock = threading.Lock()
        self._tried: dict[str, tuple[float, str]] = {}
        self._models = {name: self._open(name) for name in self._paths}

    def _open(self, name: str) -> Model:
        return Model(name, self._paths[name], engine=self._engine, on_batch=self._on_batch)

    @property
    def names(self) -> tuple[str, ...]:
        """As they were passed in; the first is the default of requests that name none."""
        return tuple(self._paths)

    def modality(self, name: str) -> Modality:
        """What a model takes."""
        return self._models[name].run.modality

    def facts(self) -> list[dict[str, Any]]:
        """The descriptions of all models; see `Model.facts`."""
        return [model.facts() for model in self._models.values()]

    @contextmanager
    def use(self, name: str | None = None) -> Iterator[Model]:
        """The model of a name, or 404; it stays open until the block ends, whatever happens to its folder."""
        with self._lock:
            if name is not None and name not in self._models:
                known = ", ".join(self.names)
                raise Refusal(404, "unknown_model", f"There is no model {name[:100]!r}.{nearest(name[:100], self.names)} Models: {known}.")
            model = self._models[self.names[0] if name is None else name]
            model.requests += 1
        try:
            yield model
        finally:
            with self._lock:
                model.requests -= 1
                done = model.requests == 0 and self._models.get(model.name) is not model
            if done:
                threading.Thread(target=model.queue.close, daemon=True).start()  # no request waits for it

    def reload_changed(self) -> list[str]:
        """Reload the runs whose files have changed, and return their names. Takes seconds; for a thread of its own.

        Where a run cannot be opened, because it is partly copied or damaged, the old one stays, and it is tried again later.
        """
        changed = []
        for name, path in self._paths.items():
            old = self._models[name]
            last, said = self._tried.get(name, (0.0, ""))
            if fingerprint(path) == old.fingerprint or time.monotonic() - last < _RETRY_SECONDS:
                continue
            try:
                new = self._open(name)
            except (HeadstartError, OSError) as error:
                self._tried[name] = (time.monotonic(), str(error))
                if str(error) != said:
                    _log.warning("reload failed, the old model stays", extra={"model": name, "because": str(error)})
                continue
            self._tried.pop(name, None)
            with self._lock:
                self._models[name] = new
                unused = old.requests == 0
            if unused:
                old.queue.close()
            changed.append(name)
            _log.info("reloaded", extra={"model": name, "digest": new.run.manifest.digest})
        return changed

    def close(self) -> None:
        """Finish the inputs in the queues, and end the threads."""
        for model in self._models.values():
            model.queue.close()


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """The runs by the names of their folders; ParameterError for no runs, or two of the same name."""
    found: dict[str, Path] = {}
    for path in runs:
        whole = Path(path).absolute()
        name = whole.name or whole.resolve().name
        if name in found:
            raise ParameterError(f"Two runs are called {name!r}: {found[name]} and {path}. Rename one of the folders.")
        found[name] = Path(path)
    if not found:
        raise ParameterError("There is no run. Give the folder that `headstart fit` wrote.")
    return found


def fingerprint(path: Path) -> _Fingerprint:
    """Name, size, time and inode of each file of a run, cheap to read; it changes when the run is rewritten."""
    found = []
    try:
        for file in path.iterdir():
            if file.name in (MANIFEST, MODEL, REFERENCE, SPLIT, *PAGES):
                status = file.stat()
                found.append((file.name, status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError:
        return ()
    return tuple(sorted(found))
