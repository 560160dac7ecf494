"""`read_dataset`: from whatever the user gave to a `Dataset`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

from headstart.data.annotations import BOX, Annotations, dataset_of, join
from headstart.data.arrays import read_npz
from headstart.data.box_files import read_box_file, read_box_folder
from headstart.data.box_lists import read_box_list
from headstart.data.box_reading import box_reason, read_boxes
from headstart.data.box_tables import has_boxes, read_box_table
from headstart.data.dataset import Dataset
from headstart.data.defect_folders import read_defect_folder
from headstart.data.drawing_files import read_drawing_file, read_drawing_folder
from headstart.data.drawings import annotations_of
from headstart.data.folders import LAYOUT, read_folder
from headstart.data.labels import read_label_columns, read_labels, shortened
from headstart.data.lists import read_list
from headstart.data.mask_folders import read_mask_folder
from headstart.data.mask_lists import read_mask_list
from headstart.data.mask_names import IMAGE_WORDS
from headstart.data.mask_reading import read_masks
from headstart.data.named import PREFIXES, TORCHVISION, read_named
from headstart.data.parallel_texts import read_parallel_folder
from headstart.data.tables import READERS, read_table
from headstart.data.text_folders import is_text_folder, read_lists_of_parts, read_text_folder
from headstart.data.text_lists import is_text_list, read_text_list
from headstart.errors import DataError, ParameterError, nearest, setting
from headstart.modalities.image import is_image_name
from headstart.settings import ListOptions
from headstart.text import printable

_FOREIGN = {
    ".xml": "XML without a box or a shape of CVAT; of Pascal VOC, which has a file for each image, give the folder",
    **dict.fromkeys((".yaml", ".yml"), "YAML without names of classes, as YOLO has them, or without its text files beside it"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods", ".numbers"), "a spreadsheet, which is not read: save it as CSV"),
    **dict.fromkeys((".feather", ".arrow", ".orc"), "a table that is not read: save it as Parquet or CSV"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".joblib"), "a file of Python objects, which are not loaded: save the table as CSV"),
    **dict.fromkeys(
        (".h5", ".hdf5", ".mat", ".lmdb", ".mdb", ".rec", ".db", ".sqlite"),
        "a database, which is not read: write the images into folders of classes",
    ),
    ".npy": "a single array: save images and labels together, as in np.savez('data.npz', images=images, labels=labels)",
    **dict.fromkeys((".lst", ".list", ".manifest"), "a list whose kind is not known: rename it to end in .txt or .csv"),
    ".tfrecord": "a TFRecord, which is not read: write the images into folders of classes",
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


def read_dataset(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    group_from: str | None = None,
    lists: ListOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Dataset:
    """Read labelled images. No image is opened, only names are read; masks are opened once, to count their pixels.

    Args:
        source: a folder (``DATA/CLASS/*`` or ``DATA/{train,val,test}/CLASS/*``), a list (.csv, .tsv, .jsonl, .parquet), a NumPy archive
            (.npz), or a public set by name (``torchvision:Flowers102``, ``hf:owner/name``), which is downloaded. Images with masks:
            a folder of both, a list of pairs, or annotations of COCO, LabelMe or CVAT. Images with boxes: annotations of Pascal VOC, COCO,
            YOLO, LabelMe, CVAT or Label Studio, or a table.
        test: separate test data, in any of these forms; their classes are matched by name.
        classes: the classes of a model, in its order: labels are matched with these by name, and others refused.
        group_from: a regular expression on each image's path below the data folder; images with the same first group (or whole match) stay
            on one side of every split.
        lists: how a list is read: its columns, the separator of several labels, the folder of its images, and whether rows may lack a file.
        cache: the folder for downloaded sets.
        announce: called with one line before a download; by default it is printed on stderr.

    Raises:
        DataError: the data cannot be read as labelled images; the message says what the layout must be, or names what came nearest.
        ParameterError: parameters that contradict each other, or a `group_from` that does not work.
        MissingExtraError: a public set needs an optional part of Headstart.
    """
    found = read_annotations(source, test=test, group_from=group_from, classes=classes, lists=lists, cache=cache, announce=announce)
    if not found.learned and found.masked:
        return dataset_of(found, read_masks(found, classes))
    if not found.learned and box_reason(found) is not None:
        return dataset_of(found, read_boxes(found, classes))
    if len(found.learned) <= 1:
        return dataset_of(found, read_labels(found, classes))
    if classes is not None:
        raise ParameterError(f"classes are those of one column of labels, and {setting('labels')} names several. Leave one of them out.")
    return dataset_of(found, read_label_columns(found))


def read_annotations(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    group_from: str | None = None,
    lists: ListOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    announce: Callable[[str], None] | None = None,
    columns: Sequence[str] = (),
    prefer: str = "",
) -> Annotations:
    """Read what the data say of each input, whatever the task; arguments and errors as of `read_dataset`.

    `columns` are those of labels in which an input may have none, even if there is only one; by default those that `lists` names, if they
    are several. Of data that say several things, `prefer` is the column to read: with `BOX`, shapes are read as boxes, not as masks, and
    boxes beside folders of classes are read.
    """
    lists = lists or ListOptions()
    columns = columns or (lists.labels if len(lists.labels) > 1 else ())
    group = (lists.columns or {}).get("group")
    if group_from is not None and group is not None:
        both = f"{setting('group_from', group_from)} and {setting('columns', {'group': group})}"
        raise ParameterError(f"{both} both say what belongs together; give one of them")
    found = list[Annotations]()
    for given in (source, test):
        if (named := columns or lists.labels) and given is not None and not _is_list(given):
            raise DataError(
                f"{setting('labels', tuple(named))}: names columns of a list, and {os.fspath(given)} is not a list. Write the "
                "labels into a list (CSV, TSV, JSONL or Parquet) with a column for the path of each image, and give that."
            )
        if given is not None and os.fspath(given).startswith(PREFIXES):
            found.append(read_named(os.fspath(given), cache=cache, announce=announce, prefer=prefer, lists=lists))
        elif given is not None:
            known = classes or [name for before in found for name in before.known_labels()]
            found.append(_read_path(given, lists, known=known, columns=columns, prefer=prefer))
    if group_from is not None:
        for one in found:
            one.group_by_names(group_from)
    return reduce(join, found)


def _is_list(given: str | os.PathLike[str]) -> bool:
    return not os.fspath(given).startswith(PREFIXES) and not Path(given).expanduser().is_dir() and Path(given).suffix.lower() != ".npz"


def _read_path(
    source: str | os.PathLike[str], lists: ListOptions, *, known: Sequence[str], columns: Sequence[str], prefer: str
) -> Annotations:  # fmt: skip
    text = os.fspath(source)
    if not text.strip():
        raise DataError(f"the name of the data is empty; give a folder, a list or the name of a public set. {LAYOUT}")
    path = Path(text).expanduser()
    if path.is_dir():
        return read_lists_of_parts(path, lists, known=known) or read_parallel_folder(path, lists) or _read_directory(path, prefer)
    root = None if lists.image_root is None else Path(lists.image_root).expanduser()
    if path.is_file() and path.suffix.lower() in (".json", ".xml", ".yaml", ".yml"):
        found = None if prefer == BOX or path.suffix.lower() in (".yaml", ".yml") else read_drawing_file(path, root)
        if (found := found or read_box_file(path, root)) is not None:
            return found
    _check_file(path, text)
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    table = read_table(path)
    found = None if columns or prefer == BOX else read_mask_list(table, path, lists)
    if found is None and not columns and not lists.labels:
        found = read_box_list(table, path, lists)
        if found is None and has_boxes([*table.columns]):
            notes = list[str]()
            boxes = read_box_table(path, notes, options=lists, table=table)
            found = annotations_of(boxes, path, path.parent if root is None else root, column=BOX, kind="the boxes")
            found.notes[:0] = notes
    if found is None and is_text_list(table, lists):
        return read_text_list(path, lists, known=frozenset(known), several=columns, table=table)
    return found or read_list(path, lists, known=frozenset(known), several=columns, table=table)


def _read_directory(path: Path, prefer: str) -> Annotations:
    if prefer == BOX:
        return read_box_folder(path) or read_folder(path)
    if is_text_folder(path):
        return read_text_folder(path)
    found = read_defect_folder(path) or read_mask_folder(path) or read_drawing_folder(path)
    return found or _with_classes_or_boxes(path)


def _with_classes_or_boxes(path: Path) -> Annotations:
    """Folders of classes are that, also where boxes lie beside their images; all else with boxes is for these."""
    try:
        classes, error = read_folder(path), None
    except DataError as refused:
        classes, error = None, refused
    several = classes is not None and classes.learned and len(classes.known_labels()) > 1
    try:
        boxes = read_box_folder(path)
    except DataError:
        if not several:
            raise
        boxes = None
    if boxes is not None and (not several or _beside_annotations(boxes)):
        return boxes
    if classes is None:
        assert error is not None
        raise error
    if boxes is not None:
        classes.notes.append(f"There are boxes as well ({boxes.columns[BOX].origin}): not read for whole images.")
    return classes


def _beside_annotations(boxes: Annotations) -> bool:
    """Whether all images lie in folders called like images, as those of several years or places do: these are no classes."""
    images = boxes.inputs if isinstance(boxes.inputs, tuple) else ()
    return all(re.sub(r"[\W_\d]+", "", image.parent.name.casefold()) in IMAGE_WORDS for image in images)


def _check_file(path: Path, text: str) -> None:
    """Refuse a path that is not a file with the suffix of a list or a NumPy archive, and say why."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(_not_there(path, text))
    if not path.is_file():
        raise DataError(f"{text} is neither a folder nor a file. {LAYOUT}")
    if is_image_name(path.name):
        raise DataError(f"{text} is a single image; give the folder that holds the class folders. {LAYOUT}")
    if suffix in _ARCHIVES:
        raise DataError(f"{text} is an archive; unpack it, and give the folder. {LAYOUT}")
    if suffix in _FOREIGN:
        raise DataError(f"{text} is {_FOREIGN[suffix]}. {LAYOUT}")
    if suffix not in READERS and suffix != ".npz":
        raise DataError(f"{text} is not a list that can be read; lists end in {', '.join([*READERS, '.npz'])}. {LAYOUT}")


def _not_there(path: Path, text: str) -> str:
    """Name what does exist nearest to a path that does not."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if scheme and "//" in text:
        return f"{text} is an address; data are read from folders and files only: download them first"
    if scheme:
        known = f" Public sets are called torchvision:NAME ({shortened(list(TORCHVISION), limit=3)}) or hf:NAME."
        return f"there is no file or folder {text!r}.{nearest(scheme.group(1), ('torchvision', 'hf')) or known}"
    whole = path.absolute()
    above = next((folder for folder in whole.parents if folder.is_dir()), whole)
    wanted = whole.relative_to(above).parts[0] if whole != above else ""
    try:
        names = sorted(printable(entry.name) + "/" * entry.is_dir() for entry in os.scandir(above) if not entry.name.startswith("."))
    except OSError:
        names = []
    close = nearest(wanted, [name.rstrip("/") for name in names])
    return f"there is no file or folder {text!r}. {above} holds {shortened(names, limit=8)}.{close}"
