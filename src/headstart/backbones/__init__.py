"""Pre-trained networks without their tops: the catalogue, and what loads them."""

from headstart.backbones.loading import Fetched, fetch, file_of_keras, find, load_backbone, loader_for, torch_network
from headstart.backbones.records import SORT_KEYS, Backbone, BackboneRecord, Layer, catalogue, sorted_records
from headstart.backbones.timm_models import all_records as all_timm_models

__all__ = [
    "SORT_KEYS",
    "Backbone",
    "BackboneRecord",
    "Fetched",
    "Layer",
    "all_timm_models",
    "catalogue",
    "fetch",
    "file_of_keras",
    "find",
    "load_backbone",
    "loader_for",
    "sorted_records",
    "torch_network",
]
