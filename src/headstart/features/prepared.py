"""What must be there before an image can be looked at: a loaded backbone, its extractor, and the store of its features."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import headstart
from headstart import files
from headstart.backbones import Backbone, loader_for
from headstart.data import Dataset
from headstart.errors import BackboneError, ParameterError, StoreError
from headstart.features.extractor import BackboneExtractor, Features, survey
from headstart.features.running import Images
from headstart.features.stage_maps import ChooseMaps
from headstart.features.store import FeatureStore
from headstart.features.table import Counted, FeatureTable, taken
from headstart.matrix import RowView, blocks
from headstart.modalities import IMAGE, Preprocessing, modality_named
from headstart.modalities.image import Levels
from headstart.progress import Listener, Progress, Say, Seconds, to_warnings
from headstart.text import unread

_TRAINED = "headstart-trained-"


class ExtractorSettings(NamedTuple):
    """The parameters on which features depend; `cache` is where they are stored, and `levels` are those of the data."""

    backbone: str
    weights: str | None
    fit_image: str | None
    engine: str
    cache: str | None
    levels: Levels = None
    windows: int = 1
    modality: str = IMAGE.name

    @classmethod
    def of(cls, settings: Any, levels: Levels = None, modality: str = IMAGE.name) -> ExtractorSettings:
        """Those of a fit or of a classifier, with paths as text."""
        weights, cache = (None if path is None else str(path) for path in (settings.weights, settings.cache))
        windows = getattr(settings, "windows", 1)  # which only a fit of masks has
        return cls(
            modality_named(modality).backbone_for(settings.backbone),
            weights,
            settings.fit_image,
            settings.engine,
            cache,
            levels,
            windows,
            modality,
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """An extractor, and where its features are stored; `cache` is None for nowhere."""

    settings: ExtractorSettings
    extractor: BackboneExtractor
    cache: Path | None

    @contextmanager
    def store(self) -> Iterator[FeatureStore | None]:
        """The feature store, while it is needed."""
        if self.cache is None:
            yield None
            return
        with FeatureStore(files.feature_store_file(self.cache)) as store:
            yield store

    def table(
        self, dataset: Dataset, *, features: bool = True, seconds: Seconds, progress: Progress | None = None,
        listener: Listener | None = None, maps: ChooseMaps | None = None,
    ) -> FeatureTable:  # fmt: skip
        """The inputs that can be read, with their features, or without any, and with `maps` of the stages; DataError where none can."""
        with seconds.lap("features" if features else "reading images"):
            if features:
                found = self.extract(dataset.inputs, progress=progress, warn=None if listener is None else listener.warn, maps=maps)
            else:
                found = survey(dataset.inputs, preprocessing=self.extractor.preprocessing, progress=progress)
        table = FeatureTable.of(dataset, found, layers=self.extractor.layers)
        if table.refused:
            (listener or Listener()).left_out(unread(table.refused, len(dataset), "are left out"))
        return replace(table, counts=self.extractor.preprocessing.counted(table.dataset.inputs))

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """A small derived result, looked up where features are stored; computed where it is not there or nothing is stored.

        The key covers everything that the result depends on; see `result_key`.
        """
        with suppress(StoreError), self.store() as store:
            found = None if store is None else store.get_result(key)
            if found is not None:
                return found
        made = compute()
        with suppress(StoreError), self.store() as store:
            if store is not None:
                store.put_result(key, made)
        return made

    def inputs(self, images: Images) -> tuple[Any, Features]:
        """What a model takes of inputs: their features, with what is counted in them beside, if anything is; and all that came of them."""
        found = self.extract(images)
        counts = self.extractor.preprocessing.counted(taken(images, found.kept))
        return found.values if counts is None else Counted(found.values, counts), found

    def extract(
        self, images: Images, *, progress: Progress | None = None, warn: Say | None = None, maps: ChooseMaps | None = None
    ) -> Features:
        """The features of images, looked up where they are stored; with `maps` of the stages, which are computed."""
        with self.store() as store:
            if maps is not None:
                return self.extractor.with_maps(images, maps, store=store, progress=progress, warn=warn or to_warnings)
            return self.extractor(images, store=store, progress=progress, warn=warn or to_warnings)


def prepare(settings: ExtractorSettings, *, announce: Say | None = None, warn: Say | None = None) -> Prepared:
    """Load the backbone. Where the cache cannot be written, a temporary folder serves, and one line says so."""

    def load(folder: Path) -> BackboneExtractor:
        load_backbone = loader_for(settings.modality)
        backbone = load_backbone(settings.backbone, weights=settings.weights, cache=folder, announce=announce or (lambda message: None))
        preprocessing = backbone.preprocessing
        if settings.levels is not None:
            preprocessing = replace(preprocessing, levels=settings.levels)
        if settings.fit_image is not None:
            preprocessing = replace(preprocessing, fit=settings.fit_image)
        return BackboneExtractor(
            backbone, preprocessing=preprocessing, engine=settings.engine, weights=settings.weights, windows=settings.windows
        )

    if settings.cache is not None:
        cache = files.cache_folder(None if settings.cache == "auto" else settings.cache)
        if cache.exists() and not cache.is_dir():
            raise ParameterError(f"The cache must be a folder, and {cache} is a file. Choose another one, or work without: --no-cache.")
        try:
            return Prepared(settings, load(cache), cache)
        except (BackboneError, StoreError, OSError):
            if _is_writable(cache):
                raise
        (warn or to_warnings)(f"The cache folder {cache} cannot be written. Continuing without storing features.")
    scratch = Path(tempfile.mkdtemp(prefix="headstart-"))
    with _removed_after_failure(scratch):
        prepared = Prepared(settings, load(scratch), None)
    _removed_with(prepared, scratch)
    return prepared


def prepare_trained(settings: ExtractorSettings, backbone: Backbone, preprocessing: Preprocessing, network: bytes) -> Prepared:
    """What `trained` made, from the bytes of the network: in a copy, or in another process."""
    with trained_folder() as folder:
        path = folder / backbone.network.name
        path.write_bytes(network)
        return trained(settings, replace(backbone, network=path), preprocessing, folder)


def trained(settings: ExtractorSettings, backbone: Backbone, preprocessing: Preprocessing, folder: Path) -> Prepared:
    """Prepare the backbone that came out of a fine-tuning, whose network lies in `folder`: that is removed with the result.

    Its features are not stored: no other run will ever ask for them.
    """
    extractor = BackboneExtractor(backbone, preprocessing=preprocessing, engine=settings.engine, windows=settings.windows)
    made = Prepared(settings, extractor, None)
    _removed_with(made, folder)
    return made


@contextmanager
def trained_folder() -> Iterator[Path]:
    """A folder for the network of a fine-tuning; `trained` takes care of it, and after a failure it is gone.

    The cache is not the place: nobody would ever look there for this network again, and each fold of a cross-validation makes another.
    """
    folder = Path(tempfile.mkdtemp(prefix=_TRAINED))
    with _removed_after_failure(folder):
        yield folder


def _removed_with(owner: Prepared, folder: Path) -> None:
    """Remove a folder when its owner goes, in this process: a forked child goes with a copy of the owner, and the folder stays."""
    weakref.finalize(owner, _remove_in, os.getpid(), folder)


def _remove_in(process: int, folder: Path) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _removed_after_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=files.create_folder(folder)):
            return True
    except (StoreError, OSError):
        return False


def result_key(name: str, *parts: Any) -> str:
    """A key of `Prepared.cached`: a name, and the SHA-256 of everything that the result depends on: arrays, and JSON values."""
    digest = hashlib.sha256(f"headstart {headstart.__version__}, numpy {np.__version__}".encode())
    for part in parts:
        if isinstance(part, np.ndarray | RowView):
            digest.update(f"{part.dtype} {part.shape}".encode())
            for rows in blocks(len(part)):
                digest.update(np.ascontiguousarray(part[rows]).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=repr).encode())
    return f"{name}/{digest.hexdigest()}"
