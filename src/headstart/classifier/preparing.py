"""What a classifier needs before it can look at an image: a backbone, an extractor, and a place for features."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headstart import files
from headstart.backbones import Backbone, load_backbone
from headstart.errors import BackboneError, ParameterError, StoreError
from headstart.features import BackboneExtractor, Features, FeatureStore, Images
from headstart.modalities.image import Preprocessing
from headstart.progress import Progress

if TYPE_CHECKING:
    from headstart.training.tuning import FineTuned

Say = Callable[[str], None]
_TUNED = "headstart-tuned-"


class Wanted(NamedTuple):
    """The parameters on which features depend."""

    backbone: str
    weights: str | None
    fit_image: str | None
    engine: str
    cache: str | None


@dataclass(frozen=True, eq=False)
class Ready:
    """An extractor, and where its features are kept; `cache` is None for nowhere."""

    wanted: Wanted
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


def prepare(wanted: Wanted, *, announce: Say | None = None, warn: Say | None = None) -> Ready:
    """Load the backbone. Where the cache cannot be written, a temporary folder serves, and one line says so."""

    def load(folder: Path) -> BackboneExtractor:
        backbone = load_backbone(wanted.backbone, weights=wanted.weights, cache=folder, announce=announce or (lambda message: None))
        preprocessing = backbone.preprocessing
        if wanted.fit_image is not None:
            preprocessing = replace(preprocessing, fit=wanted.fit_image)
        return BackboneExtractor(backbone, preprocessing=preprocessing, engine=wanted.engine, weights=wanted.weights)

    cache = None
    if wanted.cache is not None:
        cache = files.cache_folder(None if wanted.cache == "auto" else wanted.cache)
        if cache.exists() and not cache.is_dir():
            raise ParameterError(f"The cache must be a folder, and {cache} is a file. Choose another one, or work without: --no-cache.")
        try:
            return Ready(wanted, load(cache), cache)
        except (BackboneError, StoreError, OSError):
            if _is_writable(cache):
                raise
        (warn or to_warnings)(f"The cache folder {cache} cannot be written. Continuing without storing features.")
    scratch = Path(tempfile.mkdtemp(prefix="headstart-"))
    try:
        ready = Ready(wanted, load(scratch), None)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    weakref.finalize(ready, shutil.rmtree, scratch, ignore_errors=True)
    return ready


def tuned_ready(ready: Ready, backbone: Backbone, preprocessing: Preprocessing, *, folder: Path) -> Ready:
    """The same for the backbone that came out of a fine-tuning, whose network lies in `folder`: that is removed with the result.

    Its features are kept nowhere: no other run will ever ask for them.
    """
    extractor = BackboneExtractor(backbone, preprocessing=preprocessing, engine=ready.wanted.engine)
    tuned = Ready(ready.wanted, extractor, None)
    weakref.finalize(tuned, shutil.rmtree, folder, ignore_errors=True)
    return tuned


def tuned_ready_again(wanted: Wanted, tuned: FineTuned, network: bytes) -> Ready:
    """What `tuned_ready` made, in a copy or another process."""
    folder = Path(tempfile.mkdtemp(prefix=_TUNED))
    try:
        path = folder / tuned.backbone.network.name
        path.write_bytes(network)
        extractor = BackboneExtractor(
            replace(tuned.backbone, network=path), preprocessing=tuned.preprocessing, engine=wanted.engine
        )  # fmt: skip
        ready = Ready(wanted, extractor, None)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(ready, shutil.rmtree, folder, ignore_errors=True)
    return ready


@contextmanager
def tuned_folder() -> Iterator[Path]:
    """A folder for the network of a fine-tuning; `tuned_ready` takes care of it, and after a failure it is gone.

    The cache is not the place: nobody would ever look there for this network again, and each fold of a cross-validation makes another.
    """
    folder = Path(tempfile.mkdtemp(prefix=_TUNED))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=files.create_folder(folder)):
            return True
    except (StoreError, OSError):
        return False


def extracted(ready: Ready, images: Images, *, progress: Progress | None = None, warn: Say | None = None) -> Features:
    """The features of images, looked up where they are kept."""
    with ready.store() as store:
        return ready.extractor(images, store=store, progress=progress, warn=warn or to_warnings)


def to_warnings(message: str) -> None:
    """Say something where nobody is told otherwise."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)
