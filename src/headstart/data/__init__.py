"""Data sets: folders, lists, arrays and named public sets become a `Dataset` of paths (or one array), labels, parts and groups."""

from headstart.data.annotations import LABEL, Annotations, Column, dataset_of
from headstart.data.arrays import dataset_from_arrays, dataset_from_paths
from headstart.data.dataset import Dataset
from headstart.data.listing import list_images
from headstart.data.lists import read_paths
from headstart.data.reading import read_annotations, read_dataset
from headstart.data.targets import LabelColumns, Labels, LabelSets, Targets, class_targets, label_columns, labels_in
from headstart.settings import ListOptions

__all__ = [
    "LABEL", "Annotations", "Column", "Dataset", "LabelColumns", "LabelSets", "Labels", "ListOptions", "Targets", "class_targets",
    "dataset_from_arrays", "dataset_from_paths", "dataset_of", "label_columns", "labels_in",
    "list_images", "read_annotations", "read_dataset", "read_paths",
]  # fmt: skip
