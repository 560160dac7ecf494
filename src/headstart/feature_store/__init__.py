"""Features by (extractor id, image digest), in one SQLite file that survives kill -9 and is shared by threads and processes."""

from headstart.feature_store.store import FeatureStore
from headstart.feature_store.upkeep import ExtractorSummary, Merged, Pruned, StoreSummary, Verification

__all__ = ["ExtractorSummary", "FeatureStore", "Merged", "Pruned", "StoreSummary", "Verification"]
