"""Public data sets by name: ``torchvision:Flowers102`` and ``hf:owner/name``. They download only because the user named them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart.data.annotations import BOX, Annotations, Column, Labels, beside, part_of
from headstart.data.box_lists import shapes_in
from headstart.data.class_lists import ClassList
from headstart.data.dataset import Images
from headstart.data.labels import shortened
from headstart.data.lists import recognise_column
from headstart.data.named_boxes import BOX_SETS, read_torchvision_boxes
from headstart.data.shapes import DrawnShapes
from headstart.data.tables import Table
from headstart.data.text_lists import is_text_list, read_text_list
from headstart.data.values import image_array
from headstart.errors import DataError, MissingExtraError, nearest
from headstart.files import cache_folder, create_folder, replacing, write_file
from headstart.modalities.text import Text
from headstart.settings import ListOptions

PREFIXES = ("torchvision:", "hf:")
Announce = Callable[[str], None]

_THREE = (("train", {"split": "train"}), ("val", {"split": "val"}), ("test", {"split": "test"}))
_TWO = (("train", {"split": "train"}), ("test", {"split": "test"}))
_FLAG = (("train", {"train": True}), ("test", {"train": False}))
_WHOLE: tuple[tuple[str, dict[str, Any]], ...] = (("", {}),)
TORCHVISION: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "CIFAR10": _FLAG, "CIFAR100": _FLAG, "Caltech101": _WHOLE, "Caltech256": _WHOLE,
    "Country211": (("train", {"split": "train"}), ("val", {"split": "valid"}), ("test", {"split": "test"})),
    "DTD": _THREE, "EuroSAT": _WHOLE, "FGVCAircraft": _THREE, "FashionMNIST": _FLAG, "Flowers102": _THREE, "Food101": _TWO, "GTSRB": _TWO,
    "Imagenette": (("train", {"split": "train"}), ("test", {"split": "val"})), "KMNIST": _FLAG, "MNIST": _FLAG,
    "OxfordIIITPet": (("train", {"split": "trainval"}), ("test", {"split": "test"})), "RenderedSST2": _THREE, "STL10": _TWO,
    "SUN397": _WHOLE, "SVHN": _TWO, "USPS": _FLAG,
}  # fmt: skip
"""The sets of torchvision with one label per image that it can download itself, with the arguments for each part."""


def read_named(
    source: str, *, cache: str | os.PathLike[str] | None = None, announce: Announce | None = None, prefer: str = "",
    lists: ListOptions | None = None,
) -> Annotations:  # fmt: skip
    """Read ``torchvision:NAME`` or ``hf:NAME`` (``hf:NAME:CONFIGURATION``), downloading what is missing below the cache folder.

    DataError where the name is not known, or the data cannot be downloaded and are not there; MissingExtraError without torchvision or
    datasets. `announce` is called before a download; by default it prints on stderr, so that output stays clean. With `prefer`, boxes are
    read where a set has labels as well. Sets of the Hub that hold no images are read as texts, with the columns that `lists` names.
    """
    kind, _, name = source.partition(":")
    folder = cache_folder(cache) / "datasets" / kind
    reader = read_torchvision if kind == "torchvision" else partial(read_hub, prefer=prefer, lists=lists)
    return reader(name, folder=folder, announce=announce or partial(print, file=sys.stderr))


def read_torchvision(name: str, *, folder: Path, announce: Announce) -> Annotations:
    """Read one of the sets in `TORCHVISION` or `BOX_SETS`, all parts of it."""
    kind, known = name.partition(":")[0], (*TORCHVISION, *BOX_SETS)
    if name not in TORCHVISION and kind not in BOX_SETS:
        raise DataError(f"torchvision:{name} is not known.{nearest(kind, known)} Known: {', '.join(known)}")
    try:
        from torchvision import datasets as sets
    except ImportError:
        raise MissingExtraError(f"Reading torchvision:{name}", extra="torch") from None
    announce(f"torchvision:{name}: what is not yet in {folder} is downloaded from its publisher.")
    create_folder(folder)

    def opened(kind: str, arguments: dict[str, Any], *, download: bool = True) -> Any:
        try:
            return getattr(sets, kind)(root=str(folder), download=download, **arguments)
        except Exception as error:  # torchvision raises RuntimeError, URLError, ValueError and more
            raise _unavailable(f"torchvision:{name}", folder, error) from error

    def there(kind: str, arguments: dict[str, Any]) -> Any:
        """Sets with boxes are large, and torchvision unpacks some again whenever it is to download them."""
        try:
            return opened(kind, arguments, download=False)
        except DataError:
            return opened(kind, arguments)

    if kind in BOX_SETS:
        return read_torchvision_boxes(name, there, folder)
    found, labels, parts = list[Images](), list[str](), list[str]()
    for part, arguments in TORCHVISION[name]:
        data = opened(name, arguments)
        texts = class_names(data)
        images, numbers = torchvision_samples(data, folder / f"{name}-images" / (part or "all"))
        parts += [part] * len(numbers)
        labels += [texts.get(number, str(number)) for number in numbers]
        found.append(images)
    arrays = [images for images in found if isinstance(images, np.ndarray)]
    whole: Images = np.concatenate(arrays) if arrays else tuple(cast("Path", path) for images in found for path in images)
    source, root = f"torchvision:{name}", None if arrays else folder
    return Annotations.labelled(whole, labels, origin=f"the labels of {source}", parts=parts, source=source, root=root)


def class_names(data: Any) -> dict[int, str]:
    """Return the class names of a torchvision data set by number; an empty dict where it has none."""
    names = getattr(data, "classes", None) or getattr(data, "categories", None) or ()
    texts = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    return dict(enumerate(texts)) if len(set(texts)) == len(texts) else {i: f"{i} {text}" for i, text in enumerate(texts)}


def torchvision_samples(data: Any, folder: Path) -> tuple[Images, list[int]]:
    """Return images and label numbers of a torchvision data set: its own files or array where it keeps them, else saved below `folder`."""

    def first(*keys: str) -> Any:
        return next((getattr(data, key) for key in keys if getattr(data, key, None) is not None), None)

    labels, paths, samples = first("_labels", "targets", "labels"), first("_image_files", "_images"), first("_samples", "samples")
    if paths is not None and labels is not None and all(isinstance(path, str | Path) for path in paths):
        return tuple(Path(path) for path in paths), [int(label) for label in labels]
    if samples and isinstance(samples[0][0], str | Path):
        return tuple(Path(path) for path, *_ in samples), [int(label) for _, label, *_ in samples]
    pixels = np.asarray(getattr(data, "data", ()))
    if pixels.ndim in (3, 4) and labels is not None:
        if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[3] != 3:
            pixels = np.moveaxis(pixels, 1, -1)
        return image_array(pixels), [int(label) for label in labels]
    from PIL import Image

    from headstart.modalities.image.rgb import upright_rgb

    saved, numbers = [], []
    create_folder(folder)
    for i in range(len(data)):
        image, label = data[i]
        path = folder / f"{i:06d}.png"
        if not path.exists():
            with replacing(path, durable=False, shared=True) as partial:
                Image.fromarray(upright_rgb(image)).save(partial, format="PNG")
        saved.append(path)
        numbers.append(int(label))
    return tuple(saved), numbers


def _unavailable(source: str, folder: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(
        f"{source} could not be downloaded ({type(error).__name__}: {reason}). It is downloaded on first use: "
        f"check the name and the internet connection, or copy it into {folder} from a machine that has it, or give a folder of your own."
    )


def read_hub(name: str, *, folder: Path, announce: Announce, prefer: str = "", lists: ListOptions | None = None) -> Annotations:
    """Read a data set of the Hugging Face hub (or a local folder in its format): images, which keep their original bytes, or texts.

    Boxes are read of one with a column ``objects`` and no labels, or where they are preferred.
    """
    name, _, configuration = name.partition(":")
    try:
        import datasets as hub
    except ImportError:
        raise MissingExtraError(f"Reading hf:{name}", extra="hub") from None
    announce(f"hf:{name}: what is not yet in {folder} is downloaded from huggingface.co.")
    create_folder(folder)
    try:
        loaded = hub.load_dataset(name, *([configuration] if configuration else []), cache_dir=str(folder))
    except Exception as error:  # connection, unknown name, gated, needs a script: all of them with their own classes
        raise _unavailable(f"hf:{name}", folder, error) from error
    splits = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
    notes, paths, labels, parts = list[str](), list[Path](), list[Any](), list[str]()
    named = {split: part_of(str(split)) if len(splits) > 1 else "" for split in splits}
    notes += [f"The split {split!r} is neither train nor val nor test, and is passed over." for split in splits if named[split] is None]
    used = [(split, rows, part) for split, rows in splits.items() if (part := named[split]) is not None]
    if not any(type(feature).__name__ == "Image" for _, rows, _ in used for feature in rows.features.values()):
        tables = [(part, hub_table(rows)) for _, rows, part in used]
        if tables and is_text_list(tables[0][1], lists or ListOptions()):
            return _hub_texts(tables, f"hf:{name}", lists or ListOptions(), notes)
    for split, rows, part in used:
        target = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-images" / configuration / str(split)
        samples = list(hub_samples(rows, name, target, hub.Image(decode=False), boxes=prefer == BOX))
        labelled = [(path, label) for path, label in samples if label is not None]
        paths += [path for path, _ in labelled]
        labels += [label for _, label in labelled]
        parts += [part] * len(labelled)
        if len(labelled) < len(samples):
            notes.append(f"Passed over {len(samples) - len(labelled)} images without a label in the split {split!r}.")
    if not paths:
        raise DataError(f"hf:{name} has no labelled images in the splits {shortened([str(s) for s in splits])}")
    known: dict[str, Any] = {"parts": parts, "source": f"hf:{name}", "root": folder, "notes": notes}
    if isinstance(labels[0], DrawnShapes):
        column = Column(labels, [one.cell for one in labels], f"the objects of hf:{name}")
        reason = f"hf:{name} has boxes, and nothing says which class an image as a whole has."
        return Annotations(tuple(paths), {BOX: column}, learned=(), reason=reason, **known)
    return Annotations.labelled(tuple(paths), cast("Labels", labels), origin=f"the labels of hf:{name}", **known)


def hub_samples(
    rows: Any, name: str, folder: Path, undecoded: Any, *, boxes: bool = False
) -> Iterator[tuple[Path, str | tuple[str, ...] | DrawnShapes | None]]:
    """Yield (path, label or labels) for each row of one split; bytes are written below `folder` as they came.

    Of a split with ``objects`` and without labels, or with `boxes`, the objects in place of labels.
    """
    features = rows.features
    image = next((key for key, feature in features.items() if type(feature).__name__ == "Image"), None)
    label = next((key for key, feature in features.items() if _label_names(feature) is not None), None) or recognise_column(
        "label", features
    )
    if image is not None and "objects" in features and (boxes or label is None):
        yield from _hub_boxes(
            rows.cast_column(image, undecoded).select_columns([image, "objects"]), features["objects"], image, name, folder
        )
        return
    if image is None or label is None:
        missing = "images" if image is None else "labels"
        raise DataError(
            f"hf:{name} has no column of {missing}; its columns are {shortened(list(features))}. Save it as a folder or a list instead."
        )
    names = _label_names(features[label])
    create_folder(folder)
    for i, row in enumerate(rows.cast_column(image, undecoded).select_columns([image, label])):
        yield _saved(row[image], folder, i), _hub_label(row[label], names)


def hub_table(rows: Any) -> Table:
    """The columns of one split of texts, with the names of classes in place of their numbers."""
    names = {key: _label_names(feature) for key, feature in rows.features.items()}
    columns: dict[str, list[Any]] = {str(key): [] for key in names}
    for row in rows:
        for key, known in names.items():
            columns[str(key)].append(row.get(key) if known is None else _hub_label(row.get(key), known))
    return Table(columns)


def _hub_texts(tables: list[tuple[str, Table]], source: str, lists: ListOptions, notes: list[str]) -> Annotations:
    """The texts of several splits; those of a split without labels, as published test parts often are, are passed over."""
    found = list[Annotations]()
    for part, table in tables:
        try:
            one = read_text_list(Path(source), lists, table=table)
        except DataError as error:
            if not found:
                raise
            notes.append(f"The part {part!r} is passed over: {error}")
            continue
        found.append(replace(one, source=source, parts=[part] * len(one.parts), inputs=_renamed(one.inputs, part)))
    whole = reduce(beside, found)
    return replace(whole, notes=[*notes, *dict.fromkeys(whole.notes)])


def _renamed(texts: Iterable[Any], part: str) -> tuple[Text, ...]:
    return tuple(Text(text, f"{part} {text.name}".strip()) for text in texts)


def _hub_boxes(rows: Any, feature: Any, image: str, name: str, folder: Path) -> Iterator[tuple[Path, DrawnShapes]]:
    """The objects of each row, with ``bbox`` (x, y, width, height) and a category."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    names = next((found for one in (inner.values() if isinstance(inner, Mapping) else ()) if (found := _label_names(one))), None)
    classes = None if names is None else ClassList(tuple(names), tuple(range(len(names))), None, f"hf:{name}")
    create_folder(folder)
    for i, row in enumerate(rows):
        path = _saved(row[image], folder, i)
        shapes = shapes_in(row["objects"], Path(f"hf:{name}"), i + 1, names=names)
        yield path, DrawnShapes(f"hf:{name}", str(path), None, shapes, classes)


def _label_names(feature: Any) -> list[str] | None:
    """Return the names of a ClassLabel feature, or of a list of them."""
    inner: Any = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    return list(inner.names) if type(inner).__name__ == "ClassLabel" else None


def _hub_label(value: Any, names: list[str] | None) -> str | tuple[str, ...] | None:
    if isinstance(value, list):
        return tuple(text for one in value if isinstance(text := _hub_label(one, names), str))
    if value is None or (names is not None and value < 0):  # -1 is the hub's mark of a test image whose label is kept secret
        return None
    return names[value] if names is not None else str(value).strip() or None


def _saved(cell: Mapping[str, Any], folder: Path, number: int) -> Path:
    data, origin = cell.get("bytes"), cell.get("path")
    if data is None:
        return Path(str(origin))
    suffix = Path(str(origin)).suffix.lower() if origin else ""
    path = folder / f"{number:06d}{suffix or '.image'}"
    if not path.exists() or path.read_bytes() != data:
        write_file(path, data, durable=False, shared=True)
    return path
