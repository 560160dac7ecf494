"""From a run folder to its pages: report and model card say what the folder holds, whether it was written just now or years ago."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import Targets
from headstart.errors import DataError, HeadstartError, RunError, UnreadableError
from headstart.explanation import HeatMaps, nearest_training_images, overlay
from headstart.features.prepared import result_key
from headstart.matrix import FeatureMatrix
from headstart.modalities import IMAGE, TEXT
from headstart.modalities.image import ImageSource, image_digest, quiet_decoding, read_image
from headstart.modalities.text import Text
from headstart.reliability.shift import MEANING, REMEDY
from headstart.report.excerpts import text_cards
from headstart.report.general import curves, general_sections, joined, repeat_section, times_more, within
from headstart.report.model_card import model_card
from headstart.report.page import Report, page, picture_of, png
from headstart.report.training import summary
from headstart.report.wording import in_words_of
from headstart.run import MODEL, REFERENCE, SPLIT, Run, Use, uses_of
from headstart.sections import Card, Neighbour, Notice, Picture, TaskReport
from headstart.text import plural, printable

if TYPE_CHECKING:
    from headstart.run.record import FitRecord

DrawPictures = Callable[[int, ImageSource, Targets | None], tuple[Picture, ...]]
"""From a row of the test part, its image and its targets to pictures of it."""

_NEIGHBOURS = 3
_SLOWLY = 8  # heat maps that take many passes each
_SIDE, _SMALL = 192, 88  # pixels
_AT_THE_END = ("command", "images", "versions", "settings")


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """Where the pictures of a run are: for a position among the training or test images the image, or None where it is not known.

    `targets` has those of a test image, one row as they were read, or None. `features`, float32 (m, D) of the test images, spare computing
    them where they are at hand. `cached` gives, for a key and what computes it, a result that may have been stored.
    """

    training: Callable[[int], Any]
    test: Callable[[int], Any]
    targets: Callable[[int], Targets | None] = lambda row: None
    features: FeatureMatrix | None = None
    cached: Callable[[str, Callable[[], bytes]], bytes] = lambda key, compute: compute()


def write_report(folder: str | Path, report: Report) -> tuple[Path, ...]:
    """Write the pages and pictures of a run into `folder`, which must exist; return their paths. Raises OSError as the file system does."""
    texts = {"report.html": page(report), "MODEL_CARD.md": model_card(report)}
    contents = {name: text.encode("utf-8", errors="replace") for name, text in texts.items()}
    for section in report.sections:
        if section.picture and (block := picture_of(section.blocks)) is not None:
            contents[section.picture] = png(block, heading=section.caption)
    for name, content in contents.items():
        (Path(folder) / name).write_bytes(content)  # the same bytes on every platform
    return tuple(Path(folder) / name for name in contents)


def report_of(run: Run, sources: Sources | None = None) -> Report:
    """Return everything that the pages say of a run, opened or still being written.

    `sources` says where the pictures of the training and test images are; by default they are where the run's own list says. Raises
    RunError where the run is of an earlier version, which did not record what the report tells.
    """
    if not run.tested:
        raise RunError(
            f"{run.path}: was written by an earlier version of Headstart, which did not record what the report tells. "
            "Its report stays as it is; for a new one, fit again."
        )
    manifest, sources = run.manifest, sources or _from_lists(run)
    task = run.task.report(run, run.record, cards=partial(cards_of, run, sources=sources))
    report = build_report(run.record, task, provenance=manifest.provenance, backbone=vars(manifest.backbone), uses=uses_of(run.path))
    return in_words_of(run.modality, report)


def build_report(
    record: FitRecord, task: TaskReport, *, provenance: Mapping[str, Any], backbone: Mapping[str, Any], uses: Sequence[Use] = ()
) -> Report:
    """Join what the task says with what is known of every run."""
    command = printable(str(provenance.get("command", "")))
    facts = {"backbone": backbone["name"], "licence of the backbone": backbone["licence"]}
    if backbone.get("weights_source"):
        facts["source of the backbone"] = backbone["weights_source"]
    facts |= {key: value for key, value in provenance.items() if key not in _AT_THE_END}
    facts |= {key: provenance[key] for key in ("settings", "versions") if key in provenance}
    limits = [*task.limits, *(finding.message for finding in record.findings)]
    if uses:
        limits.append(f"The test part was used {times_more(uses)} after the score was measured.")
    limits += [f"{name}{': ' if name else ''}{within(record)}{curve.sentence}" for name, curve in curves(record).items()]
    return Report(
        title=record.title, task=task, backbone=str(backbone["name"]), licence=str(backbone["licence"]),
        sections=joined(task.sections, general_sections(record, uses=uses, repeat=repeat_section(command, facts))),
        hub_id=str(backbone.get("hub_id") or ""), limits=tuple(limits), training=_training(record, provenance), command=command,
        warning=_warning(record),
    )  # fmt: skip


def _warning(record: FitRecord) -> Notice | None:
    """What the pages begin with where the test images come from another world than the training images."""
    if record.reliability_test is None or not record.reliability_test.shift.found:
        return None
    return Notice(record.reliability_test.shift.lead("test images"), f"{MEANING} {REMEDY}", serious=True)


def _training(record: FitRecord, provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """How the model was made, for the model card."""
    parts = {part: sum(counts.values()) for part, counts in provenance.get("images", {}).items()}
    counts = ", ".join(f"{count} {part}" for part, count in parts.items() if count)
    history = None if record.training is None else record.training.history
    seed = provenance.get("seed", provenance.get("settings", {}).get("seed"))
    facts = (
        f"Images: {counts}." if counts else "",
        f"Refused: {plural(len(record.refused), 'file')} that could not be read." if record.refused else "",
        f"Features: {record.features}" if record.features else "",
        f"Head: {record.head}" if record.head else "",
        f"Fine-tuning: {summary(history)}" if history is not None and history.epochs else "",
        f"Seed: {seed}" if seed is not None else "",
    )
    return tuple(fact for fact in facts if fact)


def cards_of(
    run: Run, rows: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64] | None = None, *, sources: Sources, column: str | None = None,
    draw: DrawPictures | None = None,
) -> dict[int, Card]:  # fmt: skip
    """Return cards of test images by row, as the network saw them, with heat maps and the nearest training images; those gone are left out.

    `rows` of the test part are in the order of their importance; `outputs` has for each image of the test part the class that its heat map
    explains, of this `column` of labels where there are several. With `draw` the pictures are those that it makes, without neighbours.
    """
    if draw is not None:
        return _drawn_cards(run, rows, draw, sources)
    return _CARDS[run.modality.name](run, rows, outputs, sources, column)


def _text_cards(run: Run, rows: npt.NDArray[np.int64], outputs: Any, sources: Sources, column: str | None) -> dict[int, Card]:
    return text_cards(run, rows, training=sources.training, test=sources.test, features=sources.features)


def _image_cards(
    run: Run, rows: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64] | None, sources: Sources, column: str | None
) -> dict[int, Card]:
    """Cards of images, as the network saw them, with heat maps and the nearest training images."""
    assert outputs is not None
    digests = [run.tested["digests"][row].tobytes().hex() for row in rows.tolist()]
    depends = [run.manifest.files.get(name) for name in (MODEL, REFERENCE)]
    key = result_key("pictures", depends, rows, outputs[rows], digests, *([] if column is None else [column]))
    found = json.loads(sources.cached(key, lambda: json.dumps(_pictures(run, rows, outputs, sources, column)).encode()))
    tested, trained = _shown_names(run)
    cards = {}
    for row, (pictures, near) in ((int(row), entry) for row, entry in found.items()):
        neighbours = []
        for index, data in near:
            name = printable(trained[index]) if index < len(trained) else f"training image {index}"
            picture = None if data is None else Picture(data=base64.b64decode(data), alt=name)
            neighbours.append(Neighbour(name=name, row=index, picture=picture))
        own = tuple(Picture(data=base64.b64decode(data), alt="") for data in pictures)
        name = printable(tested[row]) if row < len(tested) else f"test image {row}"
        cards[row] = Card(name=name, row=row, pictures=own, neighbours=tuple(neighbours))
    return cards


_CARDS: dict[str, Callable[..., dict[int, Card]]] = {IMAGE.name: _image_cards, TEXT.name: _text_cards}


def _drawn_cards(run: Run, rows: npt.NDArray[np.int64], draw: DrawPictures, sources: Sources) -> dict[int, Card]:
    """Cards with the pictures that a task draws of each image and its targets."""
    tested, cards = _shown_names(run)[0], {}
    with quiet_decoding():
        for row in rows.tolist():
            with suppress(UnreadableError, DataError):
                if (source := sources.test(row)) is not None:
                    name = printable(tested[row]) if row < len(tested) else f"test image {row}"
                    cards[row] = Card(name=name, row=row, pictures=draw(row, source, sources.targets(row)))
    return cards


def _pictures(
    run: Run, rows: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64], sources: Sources, column: str | None
) -> dict[int, tuple[Any, Any]]:
    """By row, the pictures of an image, and position and picture of each training image near it: JPEG files in base64."""
    pixels: dict[int, npt.NDArray[np.uint8]] = {}
    with quiet_decoding():
        for row in rows.tolist():
            with suppress(UnreadableError):
                if (source := sources.test(row)) is not None:
                    pixels[row] = run.preprocessing(source)
    if not pixels:
        return {}
    readable, stacked = np.array(list(pixels)), np.stack(list(pixels.values()))
    maps = HeatMaps.of(run, method="fast", column=column)
    count = len(stacked) if maps.method == "cells" else _SLOWLY  # of the first images only where each takes many passes of the network
    heat = maps(stacked[:count], outputs[readable[:count]])
    nearest = _nearest(run, stacked, None if sources.features is None else sources.features[readable])
    return {
        row: (
            [_base64(one, _SIDE) for one in (image, *(overlay(image, one) for one in heat[place : place + 1]))],
            [(index, _neighbour(run, index, sources)) for index in nearest[place].tolist()],
        )
        for place, (row, image) in enumerate(pixels.items())
    }


def _nearest(run: Run, pixels: npt.NDArray[np.uint8], features: npt.NDArray[np.float32] | None) -> npt.NDArray[np.int64]:
    """The nearest training images (m, c) of each image, by its features or else its pixels; c is 0 where the run knows none."""
    if "features" not in run.reference:
        return np.empty((len(pixels), 0), np.int64)
    if features is None:
        features = np.stack([outputs[-1] for outputs in run.engine.run(pixels)])
    return nearest_training_images(run, features, _NEIGHBOURS)[0]


def _neighbour(run: Run, index: int, sources: Sources) -> str | None:
    with suppress(UnreadableError):
        if (source := sources.training(index)) is not None:
            return _base64(read_image(source, at_least=_SMALL, levels=run.preprocessing.levels), _SMALL)
    return None


def _base64(picture: Any, side: int) -> str:
    return base64.b64encode(jpeg(picture, side=side)).decode()


def jpeg(picture: Any, *, side: int, quality: int = 82) -> bytes:
    """Return a picture, uint8 (H, W, 3) or a Pillow image, as a JPEG whose longer side has at most `side` pixels."""
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _from_lists(run: Run) -> Sources:
    def finder(names: Sequence[str], digests: npt.NDArray[np.uint8]) -> Callable[[int], Path | Text | None]:
        """From a position to the image, where it is still there and still the same."""

        def find(row: int) -> Path | Text | None:
            with suppress(IndexError, OSError, ValueError):
                if isinstance(text := names[row], Text):
                    return text
                path = run.path / names[row]
                if image_digest(path.read_bytes()) == digests[row].tobytes():
                    return path
            return None

        return find

    @cache
    def read_again() -> Targets | None:
        """The targets of the test images from the run's own list; None where they are not there any more, or not the same."""
        with suppress(HeadstartError):
            dataset = run.read(run.path / SPLIT)
            dataset = dataset.take(dataset.part("test"))
            names = [os.path.normpath(run.path / name) for name in run.test_names]
            place = {os.path.normpath(name): index for index, name in enumerate(dataset.names())}
            return dataset.targets.take(np.array([place[name] for name in names], dtype=np.int64)) if {*names} <= {*place} else None
        return None

    def targets(row: int) -> Targets | None:
        found = read_again()
        return None if found is None else found.take(np.array([row]))

    return Sources(
        training=finder(run.training_names, run.reference["digests"]), test=finder(run.test_names, run.tested["digests"]), targets=targets
    )  # fmt: skip


def _shown_names(run: Run) -> tuple[tuple[str, ...], ...]:
    """Return what the pages call the test and the training images: their paths without the folder in which all of them are."""
    folders = [name.rpartition("/")[0] for name in (*run.test_names, *run.training_names)]
    try:
        shared = len(os.path.commonpath(folders))
    except ValueError:  # no names, or on different drives
        shared = 0
    return tuple(tuple(name[shared:].lstrip("/") for name in names) for names in (run.test_names, run.training_names))
