"""Pre-trained networks without their tops: the catalogue, and what loads them."""

from headstart.backbones.backbone import Backbone, Layer
from headstart.backbones.loading import load_backbone
from headstart.backbones.records import BackboneRecord, catalogue, find

__all__ = ["Backbone", "BackboneRecord", "Layer", "catalogue", "find", "load_backbone"]
