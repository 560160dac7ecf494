"""Extractors: images in, one float32 vector per image out, computed once and stored in the feature store.

Decoding runs in threads ahead of the engine. What is in the store is not decoded at all: only the file's bytes are read, for their digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone, Layer, torch_network
from headstart.backbones.composed import columns
from headstart.backbones.loading import BUILD
from headstart.backbones.stage_maps import MapLayer, map_network
from headstart.engine import Engine, Outputs, ahead, available_cores, check_kind, gpu_is_there, open_engine
from headstart.errors import DataError, StoreError, UnreadableError
from headstart.features.running import Images, run_images
from headstart.features.stage_maps import ChooseMaps, MapRequest, StageMaps, chosen, write_into
from headstart.features.windows import WholeImages
from headstart.matrix import allocated, compacted, spread_out
from headstart.modalities import Preprocessing
from headstart.modalities.image import quiet_decoding
from headstart.pixels.windows import Windows
from headstart.progress import Progress
from headstart.sequence_engine import open_engine_for

if TYPE_CHECKING:
    from headstart.features.store import FeatureStore

BATCH = 64
"""Images whose features are written to the store in one transaction: the most that a killed process loses."""

_READ_TOGETHER = 32  # files a thread reads and digests in one go
_Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the images that could be read."""

    values: npt.NDArray[np.float32]  # (n, dim), in the order of the images
    kept: npt.NDArray[np.int64]  # (n,): the position of each row's image in the input
    refused: tuple[UnreadableError, ...]  # for each image left out, in order
    refused_at: tuple[int, ...]  # their positions
    computed: int  # how many rows were computed now rather than found in the store
    digests: tuple[bytes, ...] = ()  # the SHA-256 of each row's image (`image_digest`)
    maps: StageMaps | None = None  # of each row's image, where they were asked for

    def complete(self, during: str) -> npt.NDArray[np.float32]:
        """The values of images all of which could be read before; DataError where one has changed `during` what is going on."""
        if self.refused:
            raise DataError(f"An image can no longer be read: {self.refused[0]}. Do not change the images during {during}.")
        return self.values


class BackboneExtractor:
    """Turns images into the pooled outputs of every stage of a backbone.

    Args:
        backbone: as `load_backbone` returns it.
        preprocessing: how an image becomes the network's input; the backbone's own by default.
        engine: ``auto`` (PyTorch where it finds an NVIDIA GPU, else OpenVINO, else ONNX Runtime), ``openvino``, ``onnxruntime``, ``torch``.
        weights: as given to `load_backbone`; the engine ``torch`` reads them again.
        windows: through which images are seen, each as the preprocessing makes the whole one; features are the mean over them.
        warn: called with one line when the store can no longer be used; extraction continues without it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        preprocessing: Preprocessing | None = None,
        engine: str = "auto",
        weights: str | Path | None = None,
        windows: int = 1,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.preprocessing: Any = preprocessing or backbone.preprocessing  # of the modality of the backbone
        self.windows = None if windows == 1 else Windows(windows, self.preprocessing.size)
        self._engine_kind = check_kind(engine)
        self._weights = weights
        self._warn = warn or (lambda message: None)

    @property
    def id(self) -> str:
        """Covers everything that changes the features: weights, graph, pooling, layers, preprocessing, decoder and precision."""
        backbone = self.backbone
        windows = "" if self.windows is None else f":windows{self.windows.count}-{self.windows.stride}"
        return f"{backbone.name}:{backbone.weights_digest}:v{BUILD}:avg{backbone.dim}:{self.preprocessing.id}:f32{windows}"

    @property
    def square(self) -> Any:
        """From an image to what the graph of a run takes: the input of the network, or the square that windows are cut from."""
        return self.preprocessing if self.windows is None else replace(self.preprocessing, size=self.windows.square)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.backbone.dim

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The slices of a feature vector, one for each stage."""
        return self.backbone.layers

    @cached_property
    def parts(self) -> tuple[BackboneExtractor, ...]:
        """The extractors of the networks that are joined in this one, where it is several; else itself."""
        parts = self.backbone.parts
        return tuple(self._of(part) for part in parts) if parts else (self,)

    def _of(self, part: Backbone) -> BackboneExtractor:
        return BackboneExtractor(part, preprocessing=self.preprocessing, engine=self._engine_kind, weights=self._weights, warn=self._warn)

    @cached_property
    def engine(self) -> Engine:
        """The engine, opened on first use: a fit whose features are all stored never pays for it."""
        only_graph = self.backbone.tuned or self.backbone.record.handcrafted or not self.preprocessing.size  # of sequences
        if not only_graph and (self._engine_kind == "torch" or (self._engine_kind == "auto" and gpu_is_there())):
            from headstart.engine import TorchEngine

            return TorchEngine(torch_network(self.backbone, weights=self._weights))
        kind = "auto" if self._engine_kind == "torch" else self._engine_kind
        return open_engine_for(self.backbone.network, kind=kind, size=self.preprocessing.size)

    def __call__(
        self,
        images: Images,
        *,
        store: FeatureStore | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Features:
        """Compute, or look up, the features of all images.

        Args:
            images: paths, bytes or arrays; or one uint8 array (n, H, W, 3).
            store: where features are looked up and stored; none by default.
            progress: called as images are done.
            warn: replaces the extractor's own.

        Returns:
            The features of the images that could be read; the others are listed there with path and reason.
        """
        if self.backbone.parts:
            return self._of_parts(images, store=store, progress=progress, warn=warn)
        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
            work = _Extraction(images, self.dim, pool, store, self.id, warn or self._warn)
            if store is not None:
                work.look_up(self.preprocessing)
            work.compute(lambda: self.engine, self.square, progress, windows=self.windows)
        return work.features()

    def with_maps(
        self, images: Images, choose: ChooseMaps, *, store: FeatureStore | None = None, progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Features:  # fmt: skip
        """The features of all images together with maps of the stages, which are computed now whatever is stored; else as a call.

        `choose` says which. ParameterError for a backbone without maps.
        """
        path, layers = map_network(self.backbone)
        request = choose(layers)
        kept = chosen(layers, request.layers)
        kind = "auto" if self._engine_kind == "torch" else self._engine_kind
        engine = open_engine(path, kind=kind, outputs=("features", *(layer.name for layer in kept)), size=self.preprocessing.size)
        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
            work = _Extraction(images, self.dim, pool, store, self.id, warn or self._warn)
            maps = work.want(kept, request)
            work.compute(lambda: engine, self.square, progress, windows=self.windows)
        found = work.features()
        return replace(found, maps=replace(maps, rows=found.kept, wholes=None if self.windows is None else self.wholes(images)))

    def wholes(self, images: Images) -> WholeImages:
        """What a model on the maps says of whole images that are seen through windows."""
        assert self.windows is not None
        return WholeImages(self.backbone, images, self.square, self.windows, "auto" if self._engine_kind == "torch" else self._engine_kind)

    def _of_parts(
        self, images: Images, *, store: FeatureStore | None, progress: Progress | None, warn: Callable[[str], None] | None
    ) -> Features:
        """The features of several networks, each computed and stored by itself: another combination finds them there.

        They are put in their places one network after the other, so that no more than one is there twice.
        """
        found: list[Features] = []
        for number, (part, places) in enumerate(zip(self.parts, columns(self.backbone.parts), strict=True)):
            told = None if progress is None else _part_of(progress, number, len(self.parts))
            features = part(images, store=store, progress=told, warn=warn or self._warn)
            if not found:
                whole = allocated(len(features.values), self.dim, folder=None if store is None else store.path.parent)
            elif not np.array_equal(features.kept, found[0].kept):
                raise DataError("Images were changed or removed while their features were computed. Leave them, and try again.")
            begin = 0
            for start, stop in places:
                whole[:, start:stop] = features.values[:, begin : begin + stop - start]
                begin += stop - start
            found.append(replace(features, values=whole))
            del features
        return replace(found[0], computed=max(features.computed for features in found))


def _part_of(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one of several passes over the same images."""
    return lambda done, total: progress(number * total + done, count * total)


class _Extraction:
    """One call of an extractor: what was found in the store, computed and refused so far."""

    def __init__(
        self, images: Images, dim: int, pool: ThreadPoolExecutor, store: FeatureStore | None = None, extractor_id: str = "",
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:  # fmt: skip
        self._images, self._pool, self._store, self._id, self._warn = images, pool, store, extractor_id, warn
        self._values = allocated(len(images), dim, folder=None if store is None else store.path.parent)
        self._present = np.zeros(len(images), dtype=bool)
        self._refused: dict[int, UnreadableError] = {}
        self._digests: dict[int, bytes] = {}
        self._computed = 0
        self._maps: StageMaps | None = None

    def want(self, layers: tuple[MapLayer, ...], request: MapRequest) -> StageMaps:
        """Keep these maps of every image that is computed, too; they are being filled."""
        folder = None if self._store is None else self._store.path.parent
        size = sum(layer.size for layer in layers)
        values = allocated(len(self._images), request.views * size, folder=folder, dtype=np.float16)
        self._maps = StageMaps(layers, request, values.reshape(len(values), request.views, size), np.arange(len(self._images)))
        return self._maps

    def look_up(self, preprocessing: Preprocessing) -> None:
        """Fill in what the store has."""
        images = self._images
        spans = [range(start, min(start + _READ_TOGETHER, len(images))) for start in range(0, len(images), _READ_TOGETHER)]
        for span, read in zip(
            spans, ahead(self._pool, lambda span: [_digest(images[index], preprocessing) for index in span], spans), strict=True
        ):
            for index, digest in zip(span, read, strict=True):
                if isinstance(digest, UnreadableError):
                    self._refused[index] = digest
                else:
                    self._digests[index] = digest
        rows = np.array(list(self._digests), dtype=np.int64)
        with self._store_may_fail():
            assert self._store is not None
            self._present[rows] = self._store.get_into(self._id, list(self._digests.values()), self._values[: len(rows)])
            spread_out(self._values, rows)

    def compute(
        self, engine: Callable[[], Engine], preprocessing: Preprocessing, progress: Progress | None, *, windows: Windows | None = None
    ) -> None:
        """Run the missing images, writing to the store every `BATCH` images, and on the way out of an interruption."""
        count = len(self._images)
        missing = [index for index in range(count) if not self._present[index] and index not in self._refused]
        done = count - len(missing)
        if progress is not None:
            progress(done, count)
        if not missing:
            return
        unwritten: list[int] = []
        try:
            wanted = None if self._maps is None else self._maps.request
            results = run_images(
                self._images, missing, engine=engine(), preprocessing=preprocessing, pool=self._pool, request=wanted, windows=windows
            )
            for result in results:
                done += 1
                if isinstance(result.outputs, UnreadableError):
                    self._refused[result.index] = result.outputs
                else:
                    self._take(result.index, (result.outputs, *result.further), windows)
                    self._present[result.index] = True
                    self._digests[result.index] = result.digest
                    self._computed += 1
                    unwritten.append(result.index)
                if len(unwritten) == BATCH:
                    self._write(unwritten)
                if progress is not None:
                    progress(done, count)
        finally:
            self._write(unwritten)

    def _take(self, index: int, views: Sequence[Outputs], windows: Windows | None) -> None:
        """Keep the features of an image, of several windows the mean, and the maps of its views."""
        whole = 1 if windows is None else len(windows.places)
        if views[0]:
            self._values[index] = views[0][0] if whole == 1 else np.mean([outputs[0] for outputs in views[:whole]], axis=0)
        if self._maps is not None:
            for place, outputs in enumerate(views if windows is None else views[whole:]):
                write_into(self._maps.values[index, place], outputs[1:])

    def features(self) -> Features:
        """The features of the images that could be read."""
        kept = np.flatnonzero(self._present)
        return Features(
            values=compacted(self._values, kept),
            kept=kept.astype(np.int64),
            refused=tuple(self._refused[index] for index in sorted(self._refused)),
            refused_at=tuple(sorted(self._refused)),
            computed=self._computed,
            digests=tuple(self._digests[index] for index in kept.tolist()),
        )

    def _write(self, unwritten: list[int]) -> None:
        if self._store is not None and unwritten:
            with self._store_may_fail():
                self._store.put(self._id, [self._digests[index] for index in unwritten], self._values[unwritten])
        unwritten.clear()

    @contextmanager
    def _store_may_fail(self) -> Iterator[None]:
        """Continue without the store where it cannot be used."""
        try:
            yield
        except StoreError as error:
            self._warn(f"{error} Continuing without storing features.")
            self._store = None


def survey(images: Images, *, preprocessing: Preprocessing, progress: Progress | None = None) -> Features:
    """Find out which images can be read, computing nothing from them: `Features` with vectors of length 0, digests and refusals."""
    with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
        work = _Extraction(images, 0, pool)
        work.compute(_NoEngine, preprocessing, progress)
    return work.features()


class _NoEngine:
    name = "none"

    def run(self, images: Iterable[_Pixels]) -> Iterator[Outputs]:
        for _ in images:
            yield ()


def _digest(source: Any, preprocessing: Preprocessing) -> bytes | UnreadableError:
    try:
        return preprocessing.digest(preprocessing.read(source))
    except UnreadableError as error:
        return error
