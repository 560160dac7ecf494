"""Features of images by a frozen backbone: the extractor, and the store that holds them by (extractor id, image digest)."""

from headstart.features.extractor import BackboneExtractor, Features, Images, run_images, survey
from headstart.features.maintenance import ExtractorSummary, Merged, Pruned, StoreSummary, Verification
from headstart.features.store import FeatureStore

__all__ = [
    "BackboneExtractor",
    "ExtractorSummary",
    "FeatureStore",
    "Features",
    "Images",
    "Merged",
    "Pruned",
    "StoreSummary",
    "Verification",
    "run_images",
    "survey",
]
