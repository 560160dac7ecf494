"""Features of images by a frozen backbone: the extractor, and the store that holds them by (extractor id, image digest)."""

from headstart.features.extractor import BackboneExtractor, Features, survey
from headstart.features.running import Images, run_images
from headstart.features.store import FeatureStore

__all__ = ["BackboneExtractor", "FeatureStore", "Features", "Images", "run_images", "survey"]
