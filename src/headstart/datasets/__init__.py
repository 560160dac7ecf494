"""Data sets: folders, lists, arrays and named public sets become a `Dataset` of paths (or one array), labels, parts and groups."""

from headstart.datasets.arrays import dataset_from_arrays, dataset_from_paths
from headstart.datasets.dataset import Dataset
from headstart.datasets.reading import read_dataset
from headstart.datasets.unlabelled import list_images

__all__ = ["Dataset", "dataset_from_arrays", "dataset_from_paths", "list_images", "read_dataset"]
