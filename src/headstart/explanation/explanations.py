"""Explanations of single predictions: the heat map of an image, its nearest training images, and a picture of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.data import labels_in
from headstart.data.values import checked_images
from headstart.engine import available_cores, open_engine
from headstart.errors import ImageError, ParameterError, RunError, nearest
from headstart.explanation.heat_maps import HeatMaps
from headstart.features import Images
from headstart.metrics.link import PlaceLink, joined
from headstart.modalities.image import ImageSource, Levels, quiet_decoding, read_image
from headstart.run import MODEL, Run, load
from headstart.tasks import ClassOutputs, OwnHeat, Task
from headstart.text import enumeration, fitted, font_at, percent, visible

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

_TOGETHER = 32  # images in memory
_SHARP = 400  # pixels of the picture that is drawn, whatever the network takes
_ROWS = 4096  # training images compared at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbour:
    """A training image near another one: its position in the run's `training_names`, and its file, which may have been moved since.

    `label` is its class (several are joined with ``, ``), `same` whether it has the class that is explained. `similarity` is 1 for the same
    features, less the further they are apart.
    """

    row: int
    path: Path
    label: str
    similarity: float
    same: bool
    levels: Levels = None

    def picture(self) -> Pixels | None:
        """The image, uint8 (H, W, 3), small; None where the file is gone."""
        try:
            return read_image(self.path, at_least=160, levels=self.levels)
        except ImageError:
            return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Why a model predicts what it does of one image.

    Attributes:
        image: as it was passed; `position`: its place among the images.
        name: the class that is explained, and its `probability`; where the model has an output for each place, the share of the
            places, and of a box the confidence.
        best: the most probable class and its probability; or the largest that is no background, and its share.
        heat: float32 (S, S) from 0 to 1: where the evidence for the class lies in the prepared image; all 0 where no place has any.
        neighbours: the nearest training images, the nearest first.
        own: the map that the model itself gives, where it has no classes; `probability` is then nan.
        region: bool (h, w), the part of the prepared image that is explained; None where it is the whole.
        place: what kind of part that is, and how much of the class is there.
    """

    image: ImageSource
    position: int
    name: str
    probability: float
    best: tuple[str, float]
    heat: Floats
    neighbours: tuple[Neighbour, ...]
    _run: Run = dataclasses.field(repr=False)
    own: OwnHeat | None = None
    region: npt.NDArray[np.bool_] | None = None
    place: PlaceLink | None = None

    @property
    def line(self) -> str:
        """What the model says, with its figures."""
        if self.own is not None:
            return self.own.line
        return f"{self.name} {self.probability:.4f}" if self.place is None else f"{self.name} {self.place.told(self.probability)}"

    @property
    def caption(self) -> str:
        """What the heat map shows."""
        if self.own is not None:
            return self.own.caption
        file = visible(Path(self.image).name) if isinstance(self.image, str | Path) else f"image {self.position + 1}"
        if self.place is not None and not self.probability:
            return self.place.unfound.format(file)
        what = "this class" if self.place is None else f"the outlined {self.place.place}"
        found = f"Evidence for {what} in {file}" if self.heat.any() else f"No region of {file} is evidence for {what}"
        likelier = self.place is None and self.best[0] != self.name
        return found + (f" (most probable: {visible(self.best[0])}, {percent(self.best[1])})" if likelier else "")

    def picture(self) -> Image.Image:
        """Draw the image, its heat map, and five of the nearest training images with their labels."""
        if self.own is not None:
            return explanation_picture(self._sharp(), self.heat, title=self.own.line, caption=self.caption)
        title = f"{visible(self.name)}  {percent(self.probability) if self.place is None else self.place.told(self.probability)}"
        return explanation_picture(
            self._sharp(), self.heat, title=title, caption=self.caption, neighbours=self.neighbours, region=self.region
        )  # fmt: skip

    def _sharp(self) -> Pixels:
        """The square that the model sees, as sharp as it is drawn."""
        sharp = dataclasses.replace(self._run.preprocessing, size=max(_SHARP, self._run.preprocessing.size))
        pixels: Pixels = sharp(self.image)
        return pixels


def explain(
    run: Run | str | Path, images: Sequence[ImageSource], *, target: str | None = None, method: str = "auto", nearest_images: int = 5,
    engine: str = "auto", column: str | None = None,
) -> Iterator[Explanation | ImageError]:  # fmt: skip
    """Explain the predictions of a run: where in each image the evidence lies, and which training images are nearest.

    Args:
        run: opened, or its folder.
        images: paths, bytes or uint8 arrays (H, W, 3).
        target: the class whose evidence to show; by default the most probable one of each image.
        method: of the heat maps, see `HeatMaps`.
        nearest_images: how many of the nearest training images to name.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        column: of labels, where the run has learned several; by default that of the `target`, or the first.

    Returns:
        An iterator that explains the images as it goes, in order: an `Explanation` of each, or the ImageError of one that cannot be read.

    Raises:
        ParameterError: an unknown class, method or column, or a negative number of training images.
        RunError: the run cannot be opened, or does not know its training images.
    """
    if nearest_images < 0:
        raise ParameterError(f"nearest_images must be 0 or more, got {nearest_images}.")
    opened = run if isinstance(run, Run) else load(run, engine=engine)
    every = opened.explainable
    if not every and (target, column, method) == (None, None, "auto") and _has_own(opened):
        return _own_maps(opened.with_engine(engine), checked_images(images))
    outputs = opened.explained(column, "Heat maps are for")
    if column is None and target is not None:
        outputs = next((one for one in every if target in one.classes), outputs)
    if target is not None and target not in outputs.classes:
        classes = [name for one in ([outputs] if column else every) for name in one.classes]
        raise ParameterError(f"the run has no class {target!r}.{nearest(target, classes)} It has {enumeration(classes)}.")
    explainer = _Explainer(opened, outputs, method=method, engine=engine, count=nearest_images, target=target)
    return explainer.explained(checked_images(images))


def _has_own(run: Run) -> bool:
    """Whether the outputs of a run are themselves maps."""
    return type(run.task).heat is not Task.heat


def _own_maps(run: Run, images: Images) -> Iterator[Explanation | ImageError]:
    """The map that the model gives of each image."""
    for start in range(0, len(images), _TOGETHER):
        some = images[start : start + _TOGETHER]
        predictions = run.predict(some, warn=lambda message: None)
        refused = dict(zip(predictions.refused_at, predictions.refused, strict=True))
        rows = {place: row for row, place in enumerate(predictions.kept.tolist())}
        for place in range(len(some)):
            if place in refused:
                yield refused[place]
                continue
            own = run.task.heat(predictions, rows[place])
            assert own is not None
            yield Explanation(
                image=some[place], position=start + place, name=own.name, probability=math.nan, best=(own.name, math.nan), heat=own.heat,
                neighbours=(), _run=run, own=own,
            )  # fmt: skip


class _Explainer:
    """Everything that is opened once for all images."""

    def __init__(self, run: Run, outputs: ClassOutputs, *, method: str, engine: str, count: int, target: str | None) -> None:
        self._run, self._count, self._outputs = run, count, outputs
        self._target = None if target is None else outputs.classes.index(target)
        self._maps = HeatMaps.of(run, method=method, engine=engine, column=outputs.column)
        names = ("features", *outputs.ranked)
        self._engine = open_engine(run.path / MODEL, kind=engine, outputs=names, size=run.preprocessing.size)
        if count and len(run.training_names) != len(run.reference["targets"]):
            raise RunError(
                f"{run.path}: has {len(run.reference['targets'])} training images, and the names of {len(run.training_names)}. "
                "Copy the run again."
            )

    def explained(self, images: Images) -> Iterator[Explanation | ImageError]:
        """Yield for each image, in order, its explanation, or why it is refused."""

        def prepared(image: ImageSource) -> Pixels | ImageError:
            try:
                found: Pixels = self._run.preprocessing(image)
                return found
            except ImageError as error:
                return error

        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
            for start in range(0, len(images), _TOGETHER):
                results = list(pool.map(prepared, images[start : start + _TOGETHER]))
                readable = [(start + place, pixels) for place, pixels in enumerate(results) if not isinstance(pixels, ImageError)]
                explanations = self._together(images, readable)
                for result in results:
                    yield result if isinstance(result, ImageError) else next(explanations)

    def _together(self, images: Images, readable: Sequence[tuple[int, Pixels]]) -> Iterator[Explanation]:
        run, classes, pixels = self._run, self._outputs.classes, np.stack([image for _, image in readable])
        features, *outputs = (np.stack(rows) for rows in zip(*self._engine.run(iter(pixels)), strict=True))
        given, link = joined(outputs), self._outputs.link
        placed = link if isinstance(link, PlaceLink) else None
        probabilities = self._outputs.shares(given)
        best = self._outputs.strongest(probabilities)
        targets = best if self._target is None else np.full(len(pixels), self._target)
        heat = self._maps(pixels, targets)
        rows, similarity = nearest_training_images(run, features, self._count)
        for place, (position, _) in enumerate(readable):
            target = int(targets[place])
            near = zip(rows[place].tolist(), similarity[place].tolist(), strict=True)
            yield Explanation(
                image=images[position], position=position, name=classes[target], probability=float(probabilities[place, target]),
                best=(classes[best[place]], float(probabilities[place, best[place]])), heat=heat[place],
                neighbours=tuple(self._neighbour(row, value, target) for row, value in near), _run=run,
                region=None if placed is None else placed.region(given[place], target), place=placed,
            )  # fmt: skip

    def _neighbour(self, row: int, similarity: float, target: int) -> Neighbour:
        run, outputs = self._run, self._outputs
        own = run.task.targets(run.reference["targets"][row : row + 1], run.manifest.state)
        names: tuple[str, ...] | None = own.names(0)
        if outputs.column:
            rows, labels = labels_in(own, outputs.column)
            assigned = np.flatnonzero(labels[0]) if labels.ndim == 2 and len(rows) else labels[:1]
            names = tuple(outputs.classes[int(index)] for index in assigned) if len(rows) else None
        label, same = ("(no label)", False) if names is None else (", ".join(names), outputs.classes[target] in names)
        path, levels = run.path / run.training_names[row], run.preprocessing.levels
        return Neighbour(row=row, path=path, label=label, similarity=similarity, same=same, levels=levels)


def nearest_training_images(run: Run, features: Floats, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Find the training images of a run that are nearest to others, in the space in which the run measures novelty, as `Run.predict` does.

    A run without a novelty score is searched by the similarity itself. `features` are float32 (m, D), as the run's network gives them.
    Returns the positions of `count` or all training images, int64 (m, c), the nearest first, and their similarities, float32 (m, c): the
    cosine of the angle between the features of the last layer.
    """
    known = run.reference["features"]
    last = run.manifest.backbone.last
    own = _directions(features if last is None else features[:, last.start : last.stop])
    if count and run.reliability is not None and run.reliability.novelty is not None:
        rows = run.reliability.novelty.nearest(features, count)[0]
        return rows, np.einsum("id,ijd->ij", own, _directions(known[rows.ravel()]).reshape(*rows.shape, -1))
    similarity = np.empty((len(own), len(known)), np.float32)
    for start in range(0, len(known), _ROWS):
        similarity[:, start : start + _ROWS] = own @ _directions(known[start : start + _ROWS]).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count].astype(np.int64)
    return order, np.take_along_axis(similarity, order, axis=1)


def _directions(features: npt.NDArray[np.floating]) -> Floats:
    rows: Floats = features.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12)))


# From dark to light without a break, so that it is also read in grey and by those who confuse red and green.
_RAMP = np.array(
    [[30, 14, 62], [86, 16, 109], [150, 38, 103], [205, 66, 71], [243, 120, 25], [252, 180, 25], [252, 254, 164]], dtype=np.float32
)
_COVER = 0.62  # of the colour over the photograph, where the heat is 1
_SHADE = 0.38  # of the darkest colour, where it is 0

INK, QUIET, PAPER, SAME, OTHER = (27, 36, 48), (92, 103, 117), (255, 255, 255), (29, 88, 168), (190, 80, 6)
_SIDE, _MARGIN, _GAP = 400, 24, 16


def colours(heat: Floats) -> Pixels:
    """The colour of each heat from 0 to 1: float32 (...) to uint8 (..., 3)."""
    place, levels = np.clip(heat, 0, 1) * (len(_RAMP) - 1), np.arange(len(_RAMP))
    return np.stack([np.interp(place, levels, channel) for channel in _RAMP.T], axis=-1).round().astype(np.uint8)


def overlay(pixels: Pixels, heat: Floats) -> Image.Image:
    """Lay heat, float32 (h, w) from 0 to 1, over a photograph of the same square, uint8 (H, W, 3), to whose size it is brought.

    It is dark where there is no heat, and goes from violet to light yellow where there is. Raises ParameterError for other arrays.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or heat.ndim != 2:
        raise ParameterError(f"An overlay takes uint8 (H, W, 3) and heat (h, w), got {pixels.dtype} {pixels.shape} and {heat.shape}.")
    height, width = pixels.shape[:2]
    scaled = Image.fromarray(heat.astype(np.float32), mode="F").resize((width, height), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(scaled), 0, 1)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[:, :, None]
    cover = (_SHADE + (_COVER - _SHADE) * heat)[:, :, None]
    return Image.fromarray(np.round(grey * (1 - cover) + colours(heat) * cover).astype(np.uint8))


def explanation_picture(
    pixels: Pixels, heat: Floats, *, title: str, caption: str, neighbours: Sequence[Neighbour] = (),
    region: npt.NDArray[np.bool_] | None = None,
) -> Image.Image:  # fmt: skip
    """Draw one explanation: the image, its heat beside it, and the nearest training images, of which five have room, below.

    `pixels`, uint8 (S, S, 3), are the square of the image that the model sees, `heat` is float32 (h, w) from 0 to 1. `title` is what the
    model says, with its probability, `caption` a line below it. A `region`, bool (h, w), is outlined in both.
    """
    from PIL import Image, ImageDraw

    width = 2 * (_SIDE + _MARGIN) + _GAP
    thumb = (width - 2 * _MARGIN - 4 * _GAP) // 5
    below = 118 + _SIDE
    image = Image.new("RGB", (width, below + 52 + (thumb + 92 if neighbours else 0)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 20), fitted(title, font_at(30), width - 2 * _MARGIN), font=font_at(30), fill=INK)
    draw.text((_MARGIN, 62), fitted(caption, font_at(17), width - 2 * _MARGIN), font=font_at(17), fill=QUIET)
    sharp = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    for left, shown in ((_MARGIN, sharp), (_MARGIN + _SIDE + _GAP, overlay(np.asarray(sharp), heat))):
        image.paste(shown if region is None else _outlined(shown, region), (left, 102))
    _legend(image, draw, (_MARGIN + _SIDE + _GAP, 102 + _SIDE + 12))
    if neighbours:
        _draw_neighbours(image, draw, neighbours[:5], thumb=thumb, top=below + 56)
    return image


def _outlined(picture: Image.Image, region: npt.NDArray[np.bool_]) -> Image.Image:
    """A picture with the edge of a region in white, within a dark line."""
    from PIL import Image, ImageChops, ImageFilter

    scaled = Image.fromarray(region.astype(np.float32), mode="F").resize(picture.size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(np.asarray(np.asarray(scaled) >= 0.5, np.uint8) * 255)
    found = picture.copy()
    for wide, colour in ((5, INK), (3, PAPER)):
        found.paste(colour, mask=ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(wide)), mask.filter(ImageFilter.MinFilter(wide))))
    return found


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """What the colours mean."""
    from PIL import Image

    small, (left, top) = font_at(15), corner
    words = ("no evidence", "most")
    start = left + round(small.getlength(words[0])) + 10
    length = _SIDE - (start - left) - round(small.getlength(words[1])) - 10
    shades = colours(np.linspace(0, 1, length, dtype=np.float32))
    image.paste(Image.fromarray(np.repeat(shades[None], 12, axis=0)), (start, top + 4))
    draw.text((left, top + 10), words[0], font=small, fill=QUIET, anchor="lm")
    draw.text((start + length + 10, top + 10), words[1], font=small, fill=QUIET, anchor="lm")


def _draw_neighbours(image: Image.Image, draw: ImageDraw.ImageDraw, neighbours: Sequence[Neighbour], *, thumb: int, top: int) -> None:
    from PIL import Image, ImageOps

    draw.text((_MARGIN, top - 6), "The nearest training images", font=font_at(17), fill=INK)
    top += 24
    for index, neighbour in enumerate(neighbours):
        left = _MARGIN + index * (thumb + _GAP)
        pixels = neighbour.picture()
        if pixels is None:
            draw.rectangle((left, top, left + thumb - 1, top + thumb - 1), outline=QUIET)
            draw.text((left + thumb // 2, top + thumb // 2), "file not found", font=font_at(14), fill=QUIET, anchor="mm")
        else:
            image.paste(ImageOps.fit(Image.fromarray(pixels), (thumb, thumb), Image.Resampling.BICUBIC), (left, top))
        label = fitted(neighbour.label, font_at(16), thumb)
        draw.text((left, top + thumb + 6), label, font=font_at(16), fill=SAME if neighbour.same else OTHER)
        note = fitted(f"similarity {neighbour.similarity:.2f}", font_at(14), thumb)
        draw.text((left, top + thumb + 27), note, font=font_at(14), fill=QUIET)
