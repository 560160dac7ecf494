"""Data sets: folders, lists, arrays and named public sets become a `Dataset` of paths (or one array), labels, parts and groups."""

from headstart.data.annotations import BOX, LABEL, MASK, Annotations, Column, dataset_of
from headstart.data.arrays import dataset_from_arrays, dataset_from_paths
from headstart.data.box_reading import box_reason, read_boxes
from headstart.data.boxes import Boxes, boxes_of
from headstart.data.dataset import Dataset
from headstart.data.defects import ANOMALOUS, GOOD, Defects, read_defects
from headstart.data.listing import list_images
from headstart.data.lists import read_paths
from headstart.data.mask_reading import read_masks
from headstart.data.masks import VOID, Masks, MaskSource, masks_of
from headstart.data.reading import read_annotations, read_dataset
from headstart.data.targets import LabelColumns, Labels, LabelSets, Targets, class_targets, label_columns, labels_in
from headstart.settings import ListOptions

__all__ = [
    "ANOMALOUS", "BOX", "GOOD", "LABEL", "MASK", "VOID", "Annotations", "Boxes", "Column", "Dataset", "Defects", "LabelColumns",
    "LabelSets", "Labels", "ListOptions", "MaskSource", "Masks", "Targets", "box_reason", "boxes_of", "class_targets",
    "dataset_from_arrays", "dataset_from_paths", "dataset_of", "label_columns", "labels_in", "list_images", "masks_of",
    "read_annotations", "read_boxes", "read_dataset", "read_defects", "read_masks", "read_paths",
]  # fmt: skip
