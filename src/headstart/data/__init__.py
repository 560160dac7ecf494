"""Data sets: folders, lists, arrays and named public sets become a `Dataset` of paths (or one array), labels, parts and groups."""

from headstart.data.arrays import dataset_from_arrays, dataset_from_paths
from headstart.data.dataset import Dataset
from headstart.data.reading import read_dataset
from headstart.data.unlabelled import list_images

__all__ = ["Dataset", "dataset_from_arrays", "dataset_from_paths", "list_images", "read_dataset"]
