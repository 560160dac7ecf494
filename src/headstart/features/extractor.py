"""Extractors: images in, one float32 vector per image out, computed once and stored in the feature store.

Decoding runs in threads ahead of the engine. What is in the store is not decoded at all: only the file's bytes are read, for their digest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone, Layer, torch_network
from headstart.backbones.composed import columns
from headstart.backbones.loading import BUILD
from headstart.backbones.stage_maps import MapLayer, map_network
from headstart.engine import Engine, Outputs, ahead, available_cores, check_kind, gpu_is_there, open_engine
from headstart.errors import DataError, ImageError, StoreError
from headstart.features.stage_maps import ChooseMaps, MapRequest, StageMaps, chosen, larger_square, viewed, write_into
from headstart.matrix import allocated, compacted, spread_out
from headstart.modalities.image import ImageSource, Preprocessing, image_digest, image_name, quiet_decoding, source_bytes, upright_size
from headstart.progress import Progress

if TYPE_CHECKING:
    from headstart.features.store import FeatureStore

Images: TypeAlias = Sequence[ImageSource] | npt.NDArray[np.uint8]
BATCH = 64
"""Images whose features are written to the store in one transaction: the most that a killed process loses."""

_READ_TOGETHER = 32  # files a thread reads and digests in one go
_Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the images that could be read."""

    values: npt.NDArray[np.float32]  # (n, dim), in the order of the images
    kept: npt.NDArray[np.int64]  # (n,): the position of each row's image in the input
    refused: tuple[ImageError, ...]  # for each image left out, in order
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
        warn: called with one line when the store can no longer be used; extraction continues without it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        preprocessing: Preprocessing | None = None,
        engine: str = "auto",
        weights: str | Path | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.preprocessing = preprocessing or backbone.preprocessing
        self._engine_kind = check_kind(engine)
        self._weights = weights
        self._warn = warn or (lambda message: None)

    @property
    def id(self) -> str:
        """Covers everything that changes the features: weights, graph, pooling, layers, preprocessing, decoder and precision."""
        backbone = self.backbone
        return f"{backbone.name}:{backbone.weights_digest}:v{BUILD}:avg{backbone.dim}:{self.preprocessing.id}:f32"

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
        only_graph = self.backbone.tuned or self.backbone.record.handcrafted
        if not only_graph and (self._engine_kind == "torch" or (self._engine_kind == "auto" and gpu_is_there())):
            from headstart.engine import TorchEngine

            return TorchEngine(torch_network(self.backbone, weights=self._weights))
        kind = "auto" if self._engine_kind == "torch" else self._engine_kind
        return open_engine(self.backbone.network, kind=kind, size=self.preprocessing.size)

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
                work.look_up()
            work.compute(lambda: self.engine, self.preprocessing, progress)
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
            work.compute(lambda: engine, self.preprocessing, progress)
        found = work.features()
        return replace(found, maps=replace(maps, rows=found.kept))

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
        self._refused: dict[int, ImageError] = {}
        self._digests: dict[int, bytes] = {}
        self._computed = 0
        self._maps: StageMaps | None = None

    def want(self, layers: tuple[MapLayer, ...], request: MapRequest) -> StageMaps:
        """Keep these maps of every image that is computed, too; they are being filled."""
        folder = None if self._store is None else self._store.path.parent
        size = sum(layer.size for layer in layers)
        values = allocated(len(self._images), request.views * size, folder=folder, dtype=np.float16)
        self._maps = StageMaps(layers, request, values.reshape(-1, request.views, size), np.arange(len(self._images)))
        return self._maps

    def look_up(self) -> None:
        """Fill in what the store has."""
        images = self._images
        spans = [range(start, min(start + _READ_TOGETHER, len(images))) for start in range(0, len(images), _READ_TOGETHER)]
        for span, read in zip(spans, ahead(self._pool, lambda span: [_digest(images[index]) for index in span], spans), strict=True):
            for index, digest in zip(span, read, strict=True):
                if isinstance(digest, ImageError):
                    self._refused[index] = digest
                else:
                    self._digests[index] = digest
        rows = np.array(list(self._digests), dtype=np.int64)
        with self._store_may_fail():
            assert self._store is not None
            self._present[rows] = self._store.get_into(self._id, list(self._digests.values()), self._values[: len(rows)])
            spread_out(self._values, rows)

    def compute(self, engine: Callable[[], Engine], preprocessing: Preprocessing, progress: Progress | None) -> None:
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
            for result in run_images(self._images, missing, engine=engine(), preprocessing=preprocessing, pool=self._pool, request=wanted):
                done += 1
                if isinstance(result.outputs, ImageError):
                    self._refused[result.index] = result.outputs
                else:
                    self._values[result.index] = result.outputs[0] if result.outputs else ()
                    if self._maps is not None:
                        for place, outputs in enumerate((result.outputs, *result.further)):
                            write_into(self._maps.values[result.index, place], outputs[1:])
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


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The result of one image: its position, the SHA-256 of its bytes, and the network's outputs or the refusal."""

    index: int
    digest: bytes
    outputs: Outputs | ImageError
    further: tuple[Outputs, ...] = ()  # those of the views after the first
    size: tuple[int, int] = (0, 0)  # height and width of the image, where they were asked for


def run_images(
    images: Images, indices: Iterable[int], *, engine: Engine, preprocessing: Preprocessing, pool: ThreadPoolExecutor,
    request: MapRequest | None = None, sizes: bool = False,
) -> Iterator[ImageResult]:  # fmt: skip
    """Decode those images whose positions are in `indices`, ahead of the engine by a bounded number, and yield the results in that order.

    Images are paths, bytes or arrays, or one uint8 array (n, H, W, 3). With `sizes`, each result has the size of its image. By a
    `request`, several views of an image go through the network.
    """
    begun: deque[_Begun] = deque()
    larger = None if request is None else larger_square(preprocessing)

    def decode(index: int) -> _Begun:
        begins = _Begun(index)
        try:
            data = source_bytes(images[index])
            begins.digest = image_digest(data)
            name = image_name(images[index])
            pixels = preprocessing(data, name=name)
            begins.size = upright_size(data) if sizes else (0, 0)
            if larger is None or request is None:
                begins.views = [pixels]
            else:
                enlarged = cache(partial(larger, data, name=name))
                begins.views = [viewed(pixels, enlarged, view) for view in request.of(index)]
            begins.count = len(begins.views)
        except ImageError as error:
            begins.refusal = error
        return begins

    def pixels() -> Iterator[_Pixels]:
        for begins in ahead(pool, decode, indices):
            begun.append(begins)
            while begins.views:
                yield begins.views.pop(0)

    def refusals() -> Iterator[ImageResult]:
        while begun and (refusal := begun[0].refusal) is not None:
            one = begun.popleft()
            yield ImageResult(one.index, one.digest, refusal)

    found: list[Outputs] = []
    for outputs in engine.run(pixels()):
        if not found:
            yield from refusals()
        found.append(outputs)
        if len(found) == begun[0].count:
            one = begun.popleft()
            yield ImageResult(one.index, one.digest, found[0], tuple(found[1:]), one.size)
            found = []
    yield from refusals()


@dataclass
class _Begun:
    """An image on its way through the engine: its views that are still to be fed, or why it was refused."""

    index: int
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    views: list[_Pixels] = field(default_factory=list)
    count: int = 0
    refusal: ImageError | None = None


def _digest(source: Any) -> bytes | ImageError:
    try:
        return image_digest(source_bytes(source))
    except ImageError as error:
        return error
